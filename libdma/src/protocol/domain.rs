//! Explicit domains: I/O address spaces of their own, for those who need a fixed device address, or several devices
//! in one.
//!
//! Each open device is in a domain that was made for it. [`derive::Kind::Domain`](super::derive::Kind::Domain) on its
//! handle makes another, empty but for what firmware reserves for the device, and gives a handle to it. It belongs to
//! the device's session: buffers of that session are mapped in it, by [`Opcode::Map`](super::call::Opcode::Map) on its
//! handle, and what is mapped counts for that session's quota. Nothing reaches it before a device has entered. It ends
//! with its last handle or with its session: then the devices in it are back in their own domains, which are as they
//! were, and what was mapped in it is unmapped.
//!
//! A device [enters](Enter) by a [ticket](super::ticket) of the domain's handle, whichever session the device is of,
//! and with it its whole group. In its own domain, where it reaches nothing for the time, mappings come and go as
//! before.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Asks for a domain, from a device's handle.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Create {
    /// [`Kind::Domain`](super::derive::Kind::Domain).
    pub kind: U32,
    /// Zero.
    pub reserved: U32,
    /// The first address of its aperture, a multiple of 4096: nothing is mapped outside of that.
    pub base: U64,
    /// How long the aperture is, a multiple of 4096. With a base of zero, zero stands for all addresses.
    pub bytes: U64,
    /// What reports call it: UTF-8, zeroes behind it.
    pub label: [u8; 32],
}

/// What a domain's handle is for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DomainInfo {
    /// The domain's number, as `iommuctl domains` shows it.
    pub domain: U64,
    /// The first address of its aperture.
    pub base: U64,
    /// How long the aperture is.
    pub bytes: U64,
    /// How many bits an I/O address has at the most, from its page tables.
    pub address_bits: U32,
    /// [`DEVICE_FLAG_WRITE_IMPLIES_READ`](super::call::DEVICE_FLAG_WRITE_IMPLIES_READ), and no others yet.
    pub flags: U32,
}

/// Asks for a device to be moved into a domain.
///
/// In between the device reaches nothing. When the answer comes, it reaches what is mapped there, and nothing of before.
/// A request that is refused leaves it where it was, without a moment in which it was out of reach.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Enter {
    /// The [ticket](super::Ticket) of a domain.
    pub ticket: [u8; 16],
}

/// The answer to [`Enter`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entered {
    /// The number of the domain that the device is in now.
    pub domain: U64,
    /// Zero.
    pub reserved: U64,
}

/// Asks for a device to be moved back into its own domain.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Leave {
    /// The number of the domain that it is in.
    pub domain: U64,
}

/// Asks what is mapped at an I/O address.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Lookup {
    /// The address, of any byte.
    pub iova: U64,
}

/// The answer to [`Lookup`]. Where in memory that is it does not say: a driver has no use for a physical address but to
/// name it to somebody, which nobody here can do (rule R3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Found {
    /// Where the mapping starts.
    pub start: U64,
    /// How long it is.
    pub bytes: U64,
    /// The [number](super::call::BufferInfo::buffer) of the buffer that is mapped.
    pub buffer: U64,
    /// Where in the buffer the byte of the address is.
    pub offset: U64,
    /// An [`access_code`](super::call::access_code): what the page tables let a device do. Zero, as all of the rest is
    /// then, if nothing of this session's is mapped there.
    pub access: U32,
    /// Zero.
    pub reserved: U32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        let bytes: [u8; 56] = core::array::from_fn(|offset| offset as u8);
        let create = Create::read_from_bytes(&bytes).unwrap();
        assert_eq!((create.kind.get(), create.reserved.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((create.base.get() as u8, create.bytes.get() as u8), (8, 16));
        assert_eq!(create.label[0], 24);
        let info = DomainInfo::read_from_prefix(&bytes).unwrap().0;
        assert_eq!(size_of::<DomainInfo>(), 32);
        assert_eq!((info.domain.get() as u8, info.base.get() as u8), (0, 8));
        assert_eq!((info.bytes.get() as u8, info.address_bits.get() as u8), (16, 24));
        assert_eq!(info.flags.get() as u8, 28);
        let found = Found::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((size_of::<Found>(), size_of::<Lookup>()), (40, 8));
        let sizes = (size_of::<Enter>(), size_of::<Entered>(), size_of::<Leave>());
        assert_eq!(sizes, (16, 16, 8));
        assert_eq!((found.start.get() as u8, found.bytes.get() as u8), (0, 8));
        assert_eq!((found.buffer.get() as u8, found.offset.get() as u8), (16, 24));
        assert_eq!((found.access.get() as u8, found.reserved.get() as u8), (32, 36));
    }
}
