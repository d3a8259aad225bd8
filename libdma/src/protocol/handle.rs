//! What a handle is told of itself, how handles are revoked, and devices reset.
//!
//! # The tree
//!
//! Each handle was derived from another, its *parent*: by a `dup`, or by an allocation. What was attached by a
//! [ticket](super::ticket) has two, the handle that it was attached by and the handle that was offered.
//!
//! A handle that is closed keeps its place, and its number its meaning, for as long as something that was derived from it, at
//! whatever remove, is open: who may revoke it takes all of that back by its number, however often its holder copied it and
//! closed what was copied. It counts as one of the handles that came of the same opened one, of which there are so many and no
//! more. With the last that was derived from it, it is gone. What it has mapped, and where it has moved the device, stays: that is
//! from then on of the nearest that it was derived from and that is left, and ends with that, or before when that revokes all
//! that was derived from it.
//!
//! # Revoking
//!
//! [`Revoke`] ends a handle and everything that was derived from it in one step. A handle may revoke what was derived from it,
//! at whatever remove, closed or not; a device handle with [`Rights::ADMINISTER`](super::Rights::ADMINISTER) any handle of its session but
//! itself and those that it was derived from.
//!
//! When it is answered, no device reaches anything by what was revoked (rule R2): mappings that were made by a revoked
//! handle are gone, whoever holds the buffer; buffers, domains and peers' BARs all of whose handles are revoked are mapped
//! nowhere, those that were attached by a ticket of a revoked handle included, in whichever session; and devices that entered
//! a domain by a revoked handle, or by a ticket of one, are back in their own. Requests that are pending on a revoked handle are
//! answered [`Error::Revoked`](super::Error::Revoked) and undone, its tickets are good for nothing, and every later
//! request on it is [`Error::Revoked`](super::Error::Revoked).
//!
//! What its holder has mapped into its own memory stays there. So the memory stays the session's and is not used again until
//! the holder has closed the handle, by itself or by its death, and what it mapped by it is unmapped.
//!
//! A device that the policy leaves unconfined is so only while nobody holds it. For as long as somebody does, what is revoked is
//! out of its reach as out of any other's; and buffers are in memory that no unconfined device reaches, whoever holds them.
//!
//! Without an IOMMU nothing keeps a device from memory that it was told of: handles end, and the memory is kept until the
//! device's session has ended.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Asks for handles to be revoked.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Revoke {
    /// [`HandleInfo::handle`] of the handle that is to end, with everything that was derived from it; or zero for everything
    /// that was derived from the handle of the request, which itself stays with what it has done itself. That takes back what is
    /// gone, too: what it has mapped and moved.
    pub handle: U64,
    /// Zero.
    pub reserved: U64,
}

/// The answer to [`Revoke`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Revoked {
    /// How many handles ended. None of those that had ended before, nor of those that were closed.
    pub handles: U64,
    /// Zero.
    pub reserved: U64,
}

/// What a handle is told of itself. It takes no right to ask.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HandleInfo {
    /// Its number, by which [`Revoke`] names it. Numbers are never used again, and are no authority.
    pub handle: U64,
    /// The number of the handle that it was derived from, or if that is closed, of the nearest open one which that was derived
    /// from; if there is none, zero.
    pub parent: U64,
    /// Its [`Rights`](super::Rights).
    pub rights: U32,
    /// The most that a device may do with what is mapped by it, as an [`access_code`](super::call::access_code).
    pub access: U32,
    /// The first of the I/O addresses within which its mappings lie.
    pub first: U64,
    /// The last of them.
    pub last: U64,
}

/// Asks for the device to be reset: it does not master the bus any more, and its function is reset where it can be, by the
/// PCI Express capability or that of Advanced Features.
///
/// It is answered when the function may be accessed again, which takes at least 100 ms (PCI Express Base 6.0, 6.6.2). Its
/// driver turns bus mastering on again. What is mapped stays mapped. From now on each device handle of the session on which
/// [`Hello`](super::call::Hello) was said before answers [`Error::DeviceReset`](super::Error::DeviceReset), the one of this
/// request included, until `Hello` is said on it again. Handles to memory and to domains stay as they are.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Reset {
    /// In the request zero. In the answer, the device's [generation](super::call::DeviceInfo::generation) from now on.
    pub generation: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        let bytes: [u8; 40] = core::array::from_fn(|offset| offset as u8);
        let revoke = Revoke::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((revoke.handle.get() as u8, revoke.reserved.get() as u8), (0, 8));
        let info = HandleInfo::read_from_bytes(&bytes).unwrap();
        assert_eq!((info.handle.get() as u8, info.parent.get() as u8), (0, 8));
        assert_eq!((info.rights.get(), info.access.get() as u8), (0x1312_1110, 20));
        assert_eq!((info.first.get() as u8, info.last.get() as u8), (24, 32));
        let sizes = (size_of::<Revoke>(), size_of::<Revoked>(), size_of::<Reset>());
        assert_eq!(sizes, (16, 16, 8));
    }
}
