//! IVMD: memory that devices must reach from the start.

use bitfield_struct::bitfield;
use dma_types::{Access, PAGE_SIZE, PciAddress, PhysAddr, SourceId};
use thiserror::Error;

use super::kind::IvmdKind;
use super::raw::RawIvmd;
use crate::acpi::{RegionFault, region};

/// An I/O Virtualization Memory Definition block: mapped at its own address, for the devices it names alone,
/// before translation is turned on (rule R1).
///
/// A block says either that the memory is to be mapped to itself, or that it is to be excluded from
/// translation. An exclusion range is one register pair of a unit, which would open the memory to more
/// devices than the block names; mapped to itself, readable and writable, the memory is what its devices
/// expect, and nobody else's. Linux does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ivmd {
    /// Where the block starts, in bytes from the start of the table.
    pub offset: usize,
    /// Which devices the block is for, by its type.
    pub kind: IvmdKind,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The lowest source-id of its devices.
    pub first: SourceId,
    /// The highest, which is one of them too.
    pub last: SourceId,
    /// The first byte of the memory, at the start of a page.
    pub base: PhysAddr,
    /// The last byte of the memory, at the end of a page.
    ///
    /// The block gives a length in bytes, which counts up to the end of the page: there is firmware that
    /// says 1, and access cannot be given to less than a page.
    pub limit: PhysAddr,
    /// What the block asks for.
    pub flags: IvmdFlags,
}

/// Flags of the block.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct IvmdFlags {
    /// Unity, bit 0: the memory is to be mapped to itself, as far as the next two flags say.
    #[bits(access = RO)]
    pub unity: bool,
    /// IR, bit 1: the devices may read.
    #[bits(access = RO)]
    pub read: bool,
    /// IW, bit 2: the devices may write.
    #[bits(access = RO)]
    pub write: bool,
    /// ExclusionRange, bit 3: the memory is to be excluded from translation; the other flags are ignored.
    #[bits(access = RO)]
    pub exclusion: bool,
    #[bits(4)]
    __: u8,
}

impl Ivmd {
    /// What the block says, and what is wrong with it.
    pub(super) fn judged(
        offset: usize,
        kind: IvmdKind,
        raw: &RawIvmd,
        width: u8,
    ) -> (Self, Result<(), IvmdFault>) {
        let device = SourceId::new(raw.device.get());
        let (first, last) = match kind {
            IvmdKind::All => (SourceId::new(0), SourceId::new(u16::MAX)),
            IvmdKind::One => (device, device),
            IvmdKind::Range => (device, SourceId::new(raw.auxiliary.get())),
        };
        let base = PhysAddr::new(raw.start.get());
        let bytes = raw.bytes.get();
        let last_byte = bytes.checked_sub(1).map(|rest| base.checked_add(rest));
        let memory = Self {
            offset,
            kind,
            segment: raw.segment.get(),
            first,
            last,
            base,
            limit: last_byte.flatten().map_or(base, end_of_page),
            flags: IvmdFlags::from_bits(raw.block.flags),
        };
        let fault = match last_byte {
            None => Err(IvmdFault::Empty { base }),
            Some(None) => Err(IvmdFault::Wraps { base, bytes }),
            Some(Some(_)) => memory.judge(width),
        };
        (memory, fault)
    }

    fn judge(&self, width: u8) -> Result<(), IvmdFault> {
        let Self { first, last, .. } = *self;
        region::judge(self.base, self.limit, width)?;
        if last < first {
            return Err(IvmdFault::NoDevices { first, last });
        }
        if self.access().is_none() {
            return Err(IvmdFault::NoAccess);
        }
        Ok(())
    }

    /// How long the memory is in bytes, a multiple of 4096.
    pub fn bytes(&self) -> u64 {
        region::bytes(self.base, self.limit)
    }

    /// What its devices may do with the memory. `None` for a block that is refused for it.
    pub fn access(&self) -> Option<Access> {
        if self.flags.exclusion() {
            return Some(Access::ReadWrite);
        }
        let unity = self.flags.unity();
        Access::from_permissions(unity && self.flags.read(), unity && self.flags.write())
    }

    /// Whether the memory is for this device, by its own source-id.
    pub fn is_for(&self, device: PciAddress) -> bool {
        self.segment == device.segment() && (self.first..=self.last).contains(&device.source())
    }
}

/// The last byte of the page that holds an address.
fn end_of_page(address: PhysAddr) -> PhysAddr {
    PhysAddr::new(address.get() | (PAGE_SIZE - 1))
}

/// A memory block is not used, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IvmdFault {
    /// There is no byte in it.
    #[error("it has no bytes, at {base}")]
    Empty {
        /// Where it is said to start.
        base: PhysAddr,
    },
    /// It runs over the end of memory.
    #[error("its {bytes} bytes at {base} run over the end of the address space")]
    Wraps {
        /// Where it is said to start.
        base: PhysAddr,
        /// How long it is said to be.
        bytes: u64,
    },
    /// It is no range that can be believed.
    #[error(transparent)]
    Region(#[from] RegionFault),
    /// Its range of devices ends before it starts.
    #[error("it is for the devices from {first} to {last}, which is backwards")]
    NoDevices {
        /// Where the range starts.
        first: SourceId,
        /// Where it ends.
        last: SourceId,
    },
    /// It asks neither for an exclusion range, nor for a mapping that could be read or written.
    #[error("it asks for neither reading, nor writing, nor an exclusion range")]
    NoAccess,
}
