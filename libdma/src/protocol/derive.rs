//! The requests that make a new handle from one: the bytes of a Redox `dup`.
//!
//! Making the handle and the object in one request means that there is no moment at which a client's
//! death would leave an object without an owner (rule R4).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Error;

/// Which request it is: the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// [`struct@Copy`]: another handle to the same object, with fewer rights.
    Copy = 1,
    /// [`Allocate`]: a buffer, from a device handle with [`Rights::ALLOCATE`](super::Rights::ALLOCATE).
    Allocate = 2,
    /// [`Allocate`] in one piece of physical memory. What maps a buffer through an IOMMU has no need of it.
    AllocateContiguous = 3,
    /// [`Register`]: a buffer of memory that the client has already, from a device handle with
    /// [`Rights::ALLOCATE`](super::Rights::ALLOCATE).
    Register = 4,
    /// [`Attach`]: a buffer of what a [ticket](super::ticket) offers, from a device handle with
    /// [`Rights::ALLOCATE`](super::Rights::ALLOCATE).
    Attach = 5,
    /// [`Create`](super::domain::Create): a domain, from a device handle with
    /// [`Rights::ATTACH`](super::Rights::ATTACH).
    Domain = 6,
    /// [`Restrict`]: another handle to the same device or domain, within bounds.
    Restrict = 7,
    /// [`Reclaim`](super::resume::Reclaim): something of before a restart of iommud, from a handle without bounds and with all
    /// of [`Rights::DEVICE`](super::Rights::DEVICE), to a device whose session was resumed.
    Reclaim = 8,
}

impl TryFrom<u32> for Kind {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        match number {
            1 => Ok(Self::Copy),
            2 => Ok(Self::Allocate),
            3 => Ok(Self::AllocateContiguous),
            4 => Ok(Self::Register),
            5 => Ok(Self::Attach),
            6 => Ok(Self::Domain),
            7 => Ok(Self::Restrict),
            8 => Ok(Self::Reclaim),
            _ => Err(Error::UnknownCall),
        }
    }
}

/// Asks for another handle to the same object.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Copy {
    /// [`Kind::Copy`].
    pub kind: U32,
    /// The [`Rights`](super::Rights) it shall have, all of which the first handle must have (rule R3).
    pub rights: U32,
}

/// Asks for another handle to the same device or domain, within bounds. Whatever comes of it is within the same bounds and
/// those of its ancestors (rule R3): they do not end with the handle that has them, but with the last of what came of it.
///
/// Such a handle knows only what came of it: buffers that were allocated, registered or attached by it or by what was
/// derived from it, and their mappings. Other mappings of its session it can neither unmap nor look up, and other buffers it
/// cannot map. What is the whole device's is not its holder's, whatever its rights: it reads no
/// [events](super::event), and offers none of the device's registers ([`Error::NotPermitted`]).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Restrict {
    /// [`Kind::Restrict`].
    pub kind: U32,
    /// The [`Rights`](super::Rights) it shall have, all of which the first handle must have (rule R3).
    pub rights: U32,
    /// The most that a device may do with what is mapped by it, as an [`access_code`](super::call::access_code): all of which
    /// the first handle may have mapped.
    pub access: U32,
    /// Zero.
    pub reserved: U32,
    /// The first of the I/O addresses within which its mappings lie, a multiple of 4096.
    pub first: U64,
    /// The last of them. With a first of zero, `u64::MAX` stands for all addresses.
    pub last: U64,
    /// The most of each [`Resource`](super::limit::Resource), in the order of their numbers; `u64::MAX` for as much as the first
    /// handle may have.
    pub limits: [U64; 8],
    /// What reports call it: printable ASCII, zeroes behind it.
    pub label: [u8; 32],
}

/// [`Restrict::limits`] of a handle that may have as much as the first.
pub const NO_LIMITS: [U64; 8] = [U64::MAX_VALUE; 8];

/// Asks for a buffer: memory of zeroes (rule R8), mapped for the device unless `access` is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Allocate {
    /// [`Kind::Allocate`] or [`Kind::AllocateContiguous`].
    pub kind: U32,
    /// An [`access_code`](super::call::access_code), or zero: not mapped yet.
    pub access: U32,
    /// Its length in bytes, a multiple of 4096.
    pub bytes: U64,
    /// What its I/O address must be a multiple of: a power of two, at least 4096.
    pub align: U64,
    /// The highest I/O address the device can put on its bus (its DMA mask).
    pub limit: U64,
    /// A [`cache_code`](super::call::cache_code): how CPUs are to cache it. What can be had is told by
    /// [`BufferInfo::cache`](super::call::BufferInfo::cache).
    pub cache: U32,
    /// Zero.
    pub reserved: U32,
    /// What reports call it: UTF-8, zeroes behind it.
    pub label: [u8; 32],
}

/// Asks for a handle to a buffer whose memory the client supplies.
///
/// The handle has no memory yet, and understands nothing but [`Hello`](super::call::Hello) and that one memory object
/// is sent to it: on Redox an address space in which nobody runs, sent by `SYS_CALL` with the flag `FD`; on Linux a
/// memfd, sent with a packet. iommud takes the memory over, maps it for the device and answers when the device can reach
/// it. From then on the handle is a buffer's as any other: iommud keeps its memory until no device can reach it, and
/// whoever may maps it by the handle (on Linux for reading alone). A refused object is left as it was, and another may
/// be sent; only a memfd whose mapping for the device failed is sealed by then as if it had been taken, and is not taken
/// again.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Register {
    /// [`Kind::Register`].
    pub kind: U32,
    /// An [`access_code`](super::call::access_code), or zero: not mapped yet.
    pub access: U32,
    /// Its length in bytes, a multiple of 4096, at most [`MAX_REGISTER_BYTES`].
    pub bytes: U64,
    /// What its I/O address must be a multiple of: a power of two, at least 4096.
    pub align: U64,
    /// The highest I/O address the device can put on its bus (its DMA mask).
    pub limit: U64,
    /// At which address the object has the memory, a multiple of 4096. A memfd has it at zero.
    pub address: U64,
    /// What reports call it: UTF-8, zeroes behind it.
    pub label: [u8; 32],
}

/// The most memory that one [`Register`] may be for: 16 MiB. Where each of its pages is has to be looked up.
pub const MAX_REGISTER_BYTES: u64 = 16 << 20;

/// Asks for a buffer of what another handle offers: the memory of a buffer, of whichever session, or a part of
/// another device's BAR.
///
/// The buffer is this session's: it has a mapping, rights, a label and a share in the quota of its own, and memory
/// that it shares. That lives until the last buffer of it is gone and every unit has confirmed that (rule R2),
/// whatever becomes of the session that offered it. A part of a BAR ends with either session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Attach {
    /// [`Kind::Attach`].
    pub kind: U32,
    /// An [`access_code`](super::call::access_code) within what was offered, or zero: not mapped yet.
    pub access: U32,
    /// The [`Rights`](super::Rights) that the buffer's handle shall have, within what was offered and what the
    /// device handle has.
    pub rights: U32,
    /// Zero.
    pub reserved: U32,
    /// What its I/O address must be a multiple of: a power of two, at least 4096.
    pub align: U64,
    /// The highest I/O address the device can put on its bus (its DMA mask).
    pub limit: U64,
    /// What was offered.
    pub ticket: [u8; 16],
    /// What reports call it: UTF-8, zeroes behind it.
    pub label: [u8; 32],
}

impl Allocate {
    /// As much of `text` as fits a label, cut between characters.
    pub fn label(text: &str) -> [u8; 32] {
        let mut label = [0; 32];
        let mut end = text.len().min(label.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        label[..end].copy_from_slice(&text.as_bytes()[..end]);
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        assert_eq!(size_of::<Copy>(), 8);
        assert_eq!((size_of::<Allocate>(), size_of::<Register>()), (72, 72));
        let bytes: [u8; 72] = core::array::from_fn(|offset| offset as u8);
        let request = Allocate::read_from_bytes(&bytes).unwrap();
        assert_eq!((request.kind.get(), request.access.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((request.bytes.get() as u8, request.align.get() as u8), (8, 16));
        assert_eq!((request.limit.get() as u8, request.cache.get() as u8), (24, 32));
        assert_eq!((request.reserved.get() as u8, request.label[0]), (36, 40));
        let request = Register::read_from_bytes(&bytes).unwrap();
        assert_eq!((request.kind.get(), request.access.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((request.bytes.get() as u8, request.align.get() as u8), (8, 16));
        assert_eq!((request.limit.get() as u8, request.address.get() as u8), (24, 32));
        assert_eq!(request.label[0], 40);
        let bytes: [u8; 80] = core::array::from_fn(|offset| offset as u8);
        let request = Attach::read_from_bytes(&bytes).unwrap();
        assert_eq!((request.kind.get(), request.access.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((request.rights.get() as u8, request.reserved.get() as u8), (8, 12));
        assert_eq!((request.align.get() as u8, request.limit.get() as u8), (16, 24));
        assert_eq!((request.ticket[0], request.label[0]), (32, 48));
        let bytes: [u8; 128] = core::array::from_fn(|offset| offset as u8);
        let request = Restrict::read_from_bytes(&bytes).unwrap();
        assert_eq!((request.kind.get(), request.rights.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((request.access.get() as u8, request.reserved.get() as u8), (8, 12));
        assert_eq!((request.first.get() as u8, request.last.get() as u8), (16, 24));
        assert_eq!(request.limits.map(|it| it.get() as u8), [32, 40, 48, 56, 64, 72, 80, 88]);
        assert_eq!(request.label[0], 96);
        let copy = Copy { kind: U32::new(Kind::Copy as u32), rights: U32::new(4) };
        assert_eq!(copy.as_bytes(), [1, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(Kind::try_from(2), Ok(Kind::Allocate));
        assert_eq!(Kind::try_from(3), Ok(Kind::AllocateContiguous));
        assert_eq!(Kind::try_from(4), Ok(Kind::Register));
        assert_eq!(Kind::try_from(5), Ok(Kind::Attach));
        assert_eq!(Kind::try_from(8), Ok(Kind::Reclaim));
        assert_eq!(Kind::try_from(0), Err(Error::UnknownCall));
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        assert_eq!(&Allocate::label("ring")[..5], b"ring\0");
        let long = Allocate::label("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaé");
        assert_eq!(long, *b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0");
    }
}
