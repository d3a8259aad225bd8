//! The calls on a handle: opcodes and their fixed little-endian structs.
//!
//! A call's payload is its struct; the answer is written over it. Batches are a [`BatchHeader`] with its
//! entries behind it, and the answer is the same bytes with the results filled in.

use dma_types::{Access, CacheType};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Error, Secret};

/// Which call it is: the first metadata word of a `SYS_CALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Opcode {
    /// [`Hello`] → [`Welcome`]; any handle.
    Hello = 1,
    /// Nothing → [`DeviceInfo`]; a device, with [`Rights::INSPECT`](super::Rights::INSPECT).
    DeviceInfo = 2,
    /// Nothing → [`BufferInfo`]; a buffer, with [`Rights::INSPECT`](super::Rights::INSPECT).
    BufferInfo = 3,
    /// [`BatchHeader`] and [`MapEntry`]s → the same, filled in; a device or a domain, with
    /// [`Rights::MAP`](super::Rights::MAP). Mappings are made without regard to others of the same memory, or strictly if
    /// [`BATCH_FLAG_STRICT`] is set.
    Map = 4,
    /// [`BatchHeader`] and [`UnmapEntry`]s → the same; a device or a domain, with [`Rights::MAP`](super::Rights::MAP).
    /// Each unit is asked once to forget all of a batch. Done means that no unit holds any of the translations any more
    /// (rule R2), if the policy has unmaps answered so late or [`BATCH_FLAG_STRICT`] is set; else that will be so soon, and
    /// nothing is used again before.
    Unmap = 5,
    /// [`Offer`](super::ticket::Offer) → [`Ticket`](super::Ticket); with [`Rights::SHARE`](super::Rights::SHARE).
    Offer = 7,
    /// [`Enter`](super::domain::Enter) → [`Entered`](super::domain::Entered); a device, with
    /// [`Rights::ATTACH`](super::Rights::ATTACH).
    Enter = 8,
    /// [`Leave`](super::domain::Leave) → nothing; a device, with [`Rights::ATTACH`](super::Rights::ATTACH).
    Leave = 9,
    /// [`Lookup`](super::domain::Lookup) → [`Found`](super::domain::Found); a device or a domain, with
    /// [`Rights::INSPECT`](super::Rights::INSPECT).
    Lookup = 10,
    /// Nothing → [`DomainInfo`](super::domain::DomainInfo); a domain, with [`Rights::INSPECT`](super::Rights::INSPECT).
    DomainInfo = 11,
    /// [`Revoke`](super::handle::Revoke) → [`Revoked`](super::handle::Revoked); any handle but text.
    Revoke = 12,
    /// Nothing → [`HandleInfo`](super::handle::HandleInfo); any handle but text.
    HandleInfo = 13,
    /// [`Reset`](super::handle::Reset) → the same; a device, with [`Rights::ADMINISTER`](super::Rights::ADMINISTER).
    Reset = 14,
    /// Nothing → [`Limit`](super::limit::Limit); a device or a domain, with [`Rights::INSPECT`](super::Rights::INSPECT).
    Limit = 15,
    /// [`Resume`](super::resume::Resume) → [`Resumed`](super::resume::Resumed); what was opened by
    /// [`path::resume`](super::path::resume).
    Resume = 16,
    /// Nothing → nothing; a device, with all of [`Rights::DEVICE`](super::Rights::DEVICE). What its session has from before a
    /// restart of iommud and has not [reclaimed](super::resume::Reclaim) is given up.
    EndResume = 17,
    /// [`Next`](super::resume::Next) → [`Found`](super::domain::Found); a device or a domain, with
    /// [`Rights::INSPECT`](super::Rights::INSPECT).
    Next = 18,
    /// [`EventsHeader`](super::event::EventsHeader) with room behind it → the same with
    /// [`EventRecord`](super::event::EventRecord)s; a device, with [`Rights::INSPECT`](super::Rights::INSPECT) and not
    /// [within bounds](super::derive::Restrict). What was told once, on whichever handle of the session, is not told again.
    Events = 20,
    /// Nothing → nothing; what was opened at [`quarantine`](super::path::quarantine). It ends the quarantine of the device and
    /// of the others of its group, or is [`Error::NotQuarantined`].
    Release = 21,
    /// [`Access`](super::sim::Access) → the same, filled in; a simulated device.
    SimRead = 0x100,
    /// [`Access`](super::sim::Access) → the same; a simulated device.
    SimWrite = 0x101,
}

impl TryFrom<u64> for Opcode {
    type Error = Error;

    fn try_from(number: u64) -> Result<Self, Error> {
        Ok(match number {
            1 => Self::Hello,
            2 => Self::DeviceInfo,
            3 => Self::BufferInfo,
            4 => Self::Map,
            5 => Self::Unmap,
            7 => Self::Offer,
            8 => Self::Enter,
            9 => Self::Leave,
            10 => Self::Lookup,
            11 => Self::DomainInfo,
            12 => Self::Revoke,
            13 => Self::HandleInfo,
            14 => Self::Reset,
            15 => Self::Limit,
            16 => Self::Resume,
            17 => Self::EndResume,
            18 => Self::Next,
            20 => Self::Events,
            21 => Self::Release,
            0x100 => Self::SimRead,
            0x101 => Self::SimWrite,
            _ => return Err(Error::UnknownCall),
        })
    }
}

/// The first call on a device handle: which protocol the client speaks.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Hello {
    /// [`Hello::MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`](super::VERSION) of the client.
    pub version: U32,
}

impl Hello {
    /// Tells this protocol from bytes that got here by mistake.
    pub const MAGIC: [u8; 4] = *b"IOMM";

    /// The handshake of this version.
    pub const fn new() -> Self {
        Self { magic: Self::MAGIC, version: U32::new(super::VERSION) }
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self::new()
    }
}

/// The answer to [`Hello`]. It is exactly as long.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Welcome {
    /// [`VERSION`](super::VERSION) of the daemon.
    pub version: U32,
    /// The most entries in a batch: [`MAX_BATCH`](super::MAX_BATCH) of the daemon.
    pub max_batch: U32,
}

/// What a device handle is for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DeviceInfo {
    /// PCI segment.
    pub segment: U16,
    /// PCI source-id: bus, device, function.
    pub source: U16,
    /// How many bits an I/O address has at the most, from the domain's page tables.
    pub address_bits: U32,
    /// How often the device has started afresh, which its holders notice: it goes up with each opening of the device and
    /// with each [reset](super::handle::Reset).
    pub generation: U64,
    /// The domain's number, as `iommuctl domains` shows it.
    pub domain: U64,
    /// The session's secret; [`Secret::NONE`] for a handle that does not have all of
    /// [`Rights::DEVICE`](super::Rights::DEVICE), that has bounds, or that was derived from one that is open still, which may
    /// revoke it: who knows the secret can have the session after a restart of iommud.
    pub secret: Secret,
    /// [`DEVICE_FLAG_WRITE_IMPLIES_READ`], [`DEVICE_FLAG_NOT_CONFINED`], and no others yet.
    pub flags: U32,
    /// The most pages of 4096 bytes that a piece of memory for this device ever has. Zero where an IOMMU makes one piece
    /// of any memory.
    pub longest_piece: U32,
    /// The session's number: each opening of a device begins one, which no two ever share.
    pub session: U64,
}

/// Set in [`DeviceInfo::flags`] when the unit cannot do zero-length reads, so that memory a device may
/// write it may also read (rule R6).
pub const DEVICE_FLAG_WRITE_IMPLIES_READ: u32 = 1 << 0;

/// Set in [`DeviceInfo::flags`] when the machine has no IOMMU: the device reaches all memory, I/O addresses are
/// physical ones, and what is mapped must be one piece of physical memory.
pub const DEVICE_FLAG_NOT_CONFINED: u32 = 1 << 1;

/// What a buffer handle is for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BufferInfo {
    /// The buffer's number, which names it in [`MapEntry::buffer`].
    pub buffer: U64,
    /// Its length in bytes, a multiple of 4096.
    pub bytes: U64,
    /// Where the device sees it, if it was mapped when it was made, else [`UNMAPPED`].
    pub iova: U64,
    /// An [`access_code`], zero if it was not mapped when it was made.
    pub access: U32,
    /// The [`Rights`](super::Rights) of this handle.
    pub rights: U32,
    /// A [`cache_code`]: how this machine's CPUs cache it. Where the type that was asked for is not to be had, it is
    /// write-back.
    pub cache: U32,
    /// Zero.
    pub reserved: U32,
}

/// The I/O address of a buffer that has none. No unit translates addresses this high.
pub const UNMAPPED: u64 = u64::MAX;

/// Before the entries of a batch, and before them again in the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    /// How many entries follow, 1 to [`MAX_BATCH`](super::MAX_BATCH).
    pub count: U32,
    /// In the request zero. In the answer, which entry was refused, if `errno` is not zero.
    pub failed: U32,
    /// In the request zero. In the answer, zero if all was done; else why the entry `failed` was
    /// refused, and nothing of the batch was done (rule R7).
    pub errno: U32,
    /// [`BATCH_FLAG_STRICT`] or zero.
    pub flags: U32,
}

/// Set in [`BatchHeader::flags`] of a map: each mapping is the only one of its memory, as long as it is there. Memory that is
/// mapped already is refused with [`Error::MappedElsewhere`], be it at another address, in another domain, or for another
/// device; and so is what would map it besides. It is answered when the units have confirmed what was unmapped of the memory
/// before.
///
/// Set in [`BatchHeader::flags`] of an unmap: it is answered when the units have confirmed it, and not before, whatever the
/// policy says. The units are told at once and of just this batch.
pub const BATCH_FLAG_STRICT: u32 = 1 << 0;

/// One mapping to make: a piece of a buffer at an I/O address that the daemon chooses, unless the flags say where.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MapEntry {
    /// [`BufferInfo::buffer`].
    pub buffer: U64,
    /// Where in the buffer the piece starts, a multiple of 4096.
    pub offset: U64,
    /// Its length in bytes, a multiple of 4096.
    pub bytes: U64,
    /// The highest I/O address the device can put on its bus (its DMA mask).
    pub limit: U64,
    /// In the answer: where the device sees the piece. In the request: the address that is chosen, if the flags say so.
    pub iova: U64,
    /// An [`access_code`].
    pub access: U32,
    /// [`MAP_FLAG_AT`] or [`MAP_FLAG_BEHIND`], or zero.
    pub flags: U32,
}

/// Set in [`MapEntry::flags`]: the piece is mapped at [`MapEntry::iova`] and nowhere else, a multiple of 4096. What is
/// mapped behind it needs no gap. For the tables that it may take, 12 KiB more count as mapped than it is long.
pub const MAP_FLAG_AT: u32 = 1 << 0;

/// Set in [`MapEntry::flags`]: the piece is mapped directly behind that of the entry before. Such a chain is put where
/// its first entry says, or wherever there is room for all of it. Each of its mappings is unmapped as any other.
pub const MAP_FLAG_BEHIND: u32 = 1 << 1;

/// One mapping to take away. It must be exactly one that was made.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UnmapEntry {
    /// Where it starts.
    pub iova: U64,
    /// Its length in bytes.
    pub bytes: U64,
}

/// The number that stands for an access in the structs: bit 0 the device may read, bit 1 it may write.
pub const fn access_code(access: Access) -> u32 {
    access.may_read() as u32 | (access.may_write() as u32) << 1
}

/// The access that a number stands for.
///
/// # Errors
///
/// [`Error::BadValue`] if it is none, or allows nothing.
pub const fn access_from_code(code: u32) -> Result<Access, Error> {
    match code {
        1 => Ok(Access::Read),
        2 => Ok(Access::Write),
        3 => Ok(Access::ReadWrite),
        _ => Err(Error::BadValue),
    }
}

/// The number that stands for a cache type in the structs.
pub const fn cache_code(cache: CacheType) -> u32 {
    match cache {
        CacheType::WriteBack => 0,
        CacheType::WriteCombining => 1,
        CacheType::Uncached => 2,
    }
}

/// The cache type that a number stands for.
///
/// # Errors
///
/// [`Error::BadValue`] if it is none.
pub const fn cache_from_code(code: u32) -> Result<CacheType, Error> {
    match code {
        0 => Ok(CacheType::WriteBack),
        1 => Ok(CacheType::WriteCombining),
        2 => Ok(CacheType::Uncached),
        _ => Err(Error::BadValue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_what_the_wire_says() {
        for opcode in [
            Opcode::Hello,
            Opcode::DeviceInfo,
            Opcode::BufferInfo,
            Opcode::Map,
            Opcode::Unmap,
            Opcode::Offer,
            Opcode::Enter,
            Opcode::Leave,
            Opcode::Lookup,
            Opcode::DomainInfo,
            Opcode::Revoke,
            Opcode::HandleInfo,
            Opcode::Reset,
            Opcode::Resume,
            Opcode::EndResume,
            Opcode::Next,
            Opcode::Events,
            Opcode::Release,
            Opcode::SimRead,
            Opcode::SimWrite,
        ] {
            assert_eq!(Opcode::try_from(opcode as u64), Ok(opcode));
        }
        assert_eq!(Opcode::try_from(0), Err(Error::UnknownCall));
        assert_eq!(Opcode::try_from(u64::MAX), Err(Error::UnknownCall));
    }

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        let hello = Hello::new();
        assert_eq!(hello.as_bytes(), b"IOMM\x03\0\0\0");
        let entry = UnmapEntry { iova: U64::new(0x1_0000), bytes: U64::new(0x2000) };
        assert_eq!(entry.as_bytes(), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]);
        assert_eq!(size_of::<Hello>(), size_of::<Welcome>());
        assert_eq!(size_of::<DeviceInfo>(), 56);
        assert_eq!(size_of::<BufferInfo>(), 40);
        assert_eq!((size_of::<BatchHeader>(), size_of::<MapEntry>()), (16, 48));
    }

    #[test]
    fn every_field_has_its_place() {
        // Each byte of a struct is its offset, so that a field that moved would read something else.
        let bytes: [u8; 64] = core::array::from_fn(|offset| offset as u8);
        let info = DeviceInfo::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((info.segment.get(), info.source.get()), (0x0100, 0x0302));
        assert_eq!(
            (info.address_bits.get(), info.generation.get()),
            (0x0706_0504, 0x0f0e_0d0c_0b0a_0908)
        );
        assert_eq!((info.domain.get(), info.secret.0[0]), (0x1716_1514_1312_1110, 0x18));
        assert_eq!((info.flags.get(), info.longest_piece.get()), (0x2b2a_2928, 0x2f2e_2d2c));
        assert_eq!(info.session.get() as u8, 48);
        let info = BufferInfo::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((info.buffer.get(), info.bytes.get() as u8), (0x0706_0504_0302_0100, 8));
        assert_eq!(
            (info.iova.get() as u8, info.access.get() as u8, info.rights.get() as u8),
            (16, 24, 28)
        );
        assert_eq!((info.cache.get() as u8, info.reserved.get() as u8), (32, 36));
        let header = BatchHeader::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((header.count.get(), header.failed.get() as u8), (0x0302_0100, 4));
        assert_eq!((header.errno.get() as u8, header.flags.get() as u8), (8, 12));
        let entry = MapEntry::read_from_prefix(&bytes).unwrap().0;
        assert_eq!(
            (entry.buffer.get() as u8, entry.offset.get() as u8, entry.bytes.get() as u8),
            (0, 8, 16)
        );
        assert_eq!((entry.limit.get() as u8, entry.iova.get() as u8), (24, 32));
        assert_eq!((entry.access.get(), entry.flags.get() as u8), (0x2b2a_2928, 44));
        let welcome = Welcome::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((welcome.version.get(), welcome.max_batch.get()), (0x0302_0100, 0x0706_0504));
    }

    #[test]
    fn r5_access_codes_that_mean_nothing_are_refused() {
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            assert_eq!(access_from_code(access_code(access)), Ok(access));
        }
        for code in [0, 4, 5, u32::MAX] {
            assert_eq!(access_from_code(code), Err(Error::BadValue));
        }
    }
    #[test]
    fn r5_cache_codes_that_mean_nothing_are_refused() {
        for cache in [CacheType::WriteBack, CacheType::WriteCombining, CacheType::Uncached] {
            assert_eq!(cache_from_code(cache_code(cache)), Ok(cache));
        }
        assert_eq!(cache_from_code(0), Ok(CacheType::WriteBack));
        for code in [3, 4, u32::MAX] {
            assert_eq!(cache_from_code(code), Err(Error::BadValue));
        }
    }
}
