//! A VT-d unit's few registers and entries that a case needs, from the text of the specification (Intel
//! VT-d Architecture Specification, revision 4.1; sections are named with each).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use bitfield_struct::bitfield;
use dma_types::{PAGE_SIZE, PhysAddr, SourceId};
use iommu_engine::platform::{Platform, RegisterWindow};

use crate::harness::{Failure, Outcome};
use crate::platform::clock::spin;
use crate::require;

/// Offsets of registers (section 11.4).
mod register {
    pub(super) const VERSION: usize = 0x00;
    pub(super) const CAPABILITY: usize = 0x08;
    pub(super) const EXTENDED_CAPABILITY: usize = 0x10;
    pub(super) const GLOBAL_COMMAND: usize = 0x18;
    pub(super) const GLOBAL_STATUS: usize = 0x1c;
    pub(super) const ROOT_TABLE_ADDRESS: usize = 0x20;
    pub(super) const CONTEXT_COMMAND: usize = 0x28;
    pub(super) const FAULT_STATUS: usize = 0x34;
    pub(super) const FAULT_EVENT_DATA: usize = 0x3c;
    /// From the IOTLB registers' place, which ECAP.IRO names.
    pub(super) const IOTLB_INVALIDATE: usize = 8;
    /// QEMU's registers end here.
    pub(super) const END: usize = 0x230;
}

/// How long the unit may take over anything.
const PATIENCE: Duration = Duration::from_secs(1);

/// VER_REG (section 11.4.1).
#[bitfield(u32)]
pub struct Version {
    #[bits(4)]
    pub minor: u8,
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}

/// CAP_REG (section 11.4.2).
#[bitfield(u64)]
pub struct Capabilities {
    /// ND: 4 + 2 times this many bits of domain id.
    #[bits(3)]
    pub domains: u8,
    #[bits(5)]
    __: u8,
    /// SAGAW: bit 1 is 3 levels, bit 2 is 4, bit 3 is 5.
    #[bits(5)]
    pub levels: u8,
    #[bits(9)]
    __: u16,
    /// ZLR: whether a read of no bytes passes where only writing is allowed, bit 22.
    pub zero_length_reads: bool,
    __: bool,
    /// FRO: where the fault records are, in 16 bytes.
    #[bits(10)]
    pub fault_offset: usize,
    #[bits(6)]
    __: u8,
    /// NFR: how many there are, less one.
    pub fault_records: u8,
    __: u16,
}

/// ECAP_REG (section 11.4.3).
#[bitfield(u64)]
pub struct ExtendedCapabilities {
    __: u8,
    /// IRO: where the IOTLB registers are, in 16 bytes.
    #[bits(10)]
    pub iotlb_offset: usize,
    #[bits(46)]
    __: u64,
}

/// GCMD_REG and GSTS_REG (sections 11.4.4): a bit set in the one appears in the other.
#[bitfield(u32)]
pub struct Global {
    #[bits(30)]
    __: u32,
    /// SRTP, RTPS: the root table's address is taken over.
    pub root_table: bool,
    /// TE, TES: translation is on.
    pub translation: bool,
}

/// CCMD_REG (section 11.4.5.1).
#[bitfield(u64)]
struct ContextCommand {
    #[bits(61)]
    __: u64,
    /// CIRG: 1 is all of the context cache.
    #[bits(2)]
    granularity: u8,
    /// ICC: do it; clear when done.
    invalidate: bool,
}

/// IOTLB_REG (section 11.4.6.1).
#[bitfield(u64)]
struct IotlbInvalidate {
    #[bits(60)]
    __: u64,
    /// IIRG: 1 is all of the IOTLB.
    #[bits(2)]
    granularity: u8,
    __: bool,
    /// IVT: do it; clear when done.
    invalidate: bool,
}

/// FRCD_REG (section 11.4.14), the lower and the upper half.
#[bitfield(u128)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI: the page of the address.
    #[bits(52)]
    pub page: u64,
    /// SID.
    pub source: u16,
    __: u16,
    /// FR: why.
    pub reason: u8,
    #[bits(20)]
    __: u32,
    #[bits(2)]
    __: u8,
    /// T: a read and not a write.
    pub read: bool,
    /// F: there is a fault in here; writing a one clears it.
    pub fault: bool,
}

/// A root entry (section 9.1).
#[bitfield(u128)]
pub struct RootEntry {
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// CTP.
    #[bits(52)]
    pub context_page: u64,
    __: u64,
}

/// A context entry (section 9.3).
#[bitfield(u128)]
pub struct ContextEntry {
    pub present: bool,
    /// FPD: faults are not recorded.
    pub silent: bool,
    /// TT: 0 is through the second-stage table.
    #[bits(2)]
    pub kind: u8,
    __: u8,
    /// SSPTPTR.
    #[bits(52)]
    pub table_page: u64,
    /// AW: 1 is 3 levels, 2 is 4, 3 is 5.
    #[bits(3)]
    pub width: u8,
    #[bits(5)]
    __: u8,
    /// DID.
    pub domain: u16,
    #[bits(40)]
    __: u64,
}

/// A second-stage entry (section 9.8), leaf or not.
#[bitfield(u64)]
pub struct SecondStageEntry {
    pub read: bool,
    pub write: bool,
    #[bits(10)]
    __: u16,
    #[bits(40)]
    pub page: u64,
    #[bits(12)]
    __: u16,
}

/// Where the first unit (DRHD) in this DMAR has its registers (section 8.3).
pub fn first_unit(dmar: &[u8]) -> Outcome<PhysAddr> {
    const STRUCTURES: usize = 48;
    const BASE: usize = 8;
    let first = dmar.get(STRUCTURES..).unwrap_or_default();
    require!(first.starts_with(&[0, 0]), "the DMAR does not begin with a unit");
    let base = first.get(BASE..).and_then(|rest| rest.first_chunk::<8>());
    let base = base.ok_or(Failure("the DMAR's first unit is cut off".into()))?;
    Ok(PhysAddr::new(u64::from_le_bytes(*base)))
}

/// The machine's first unit.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    window: RegisterWindow,
    /// What it can do.
    pub capabilities: Capabilities,
    extended: ExtendedCapabilities,
}

impl Unit {
    /// Has its message about faults raise another vector.
    pub fn set_fault_vector(&self, platform: &mut impl Platform, vector: u8) {
        platform.write32(self.window, register::FAULT_EVENT_DATA, vector.into());
    }

    /// Finds it through the firmware's table.
    pub fn find(platform: &mut impl Platform) -> Outcome<Self> {
        let dmar = platform.acpi_table(*b"DMAR")?.ok_or(Failure("no DMAR".into()))?;
        let window = platform.map_registers(first_unit(&dmar)?, register::END)?;
        let capabilities = platform.read64(window, register::CAPABILITY);
        let extended = platform.read64(window, register::EXTENDED_CAPABILITY);
        for bits in [capabilities, extended] {
            require!(bits != 0 && bits != u64::MAX, "a capability register reads {bits:#x}");
        }
        Ok(Self { window, capabilities: capabilities.into(), extended: extended.into() })
    }

    /// Its version.
    pub fn version(&self, platform: &mut impl Platform) -> Version {
        platform.read32(self.window, register::VERSION).into()
    }

    /// The numbers of levels that its page tables may have.
    pub fn levels(&self) -> Vec<u8> {
        (3..=5).filter(|levels| self.capabilities.levels() >> (levels - 2) & 1 == 1).collect()
    }

    /// Whether the root table leads to a page table for this device.
    pub fn leads_somewhere(&self, platform: &mut impl Platform, source: SourceId) -> Outcome<bool> {
        let root = platform.read64(self.window, register::ROOT_TABLE_ADDRESS);
        let root = PhysAddr::new(root & !(PAGE_SIZE - 1));
        let entry = RootEntry::from_bits(read_entry(platform, root, source.bus().into())?);
        if !entry.present() {
            return Ok(false);
        }
        let context = PhysAddr::new(entry.context_page() << 12);
        let entry = ContextEntry::from_bits(read_entry(platform, context, source.devfn().into())?);
        Ok(entry.present())
    }

    /// What is on.
    pub fn status(&self, platform: &mut impl Platform) -> Global {
        platform.read32(self.window, register::GLOBAL_STATUS).into()
    }

    /// Turns translation on, with this root table and nothing in the caches.
    pub fn turn_on(&self, platform: &mut impl Platform, root: PhysAddr) -> Outcome {
        platform.write64(self.window, register::ROOT_TABLE_ADDRESS, root.get());
        self.command(platform, Global::new().with_root_table(true))?;
        self.wait(platform, "the root table is not taken over", |unit, platform| {
            unit.status(platform).root_table()
        })?;
        self.invalidate(platform)?;
        self.command(platform, Global::new().with_translation(true))?;
        self.wait(platform, "translation does not turn on", |unit, platform| {
            unit.status(platform).translation()
        })
    }

    /// Turns translation off.
    pub fn turn_off(&self, platform: &mut impl Platform) -> Outcome {
        self.command(platform, Global::new())?;
        self.wait(platform, "translation does not turn off", |unit, platform| {
            !unit.status(platform).translation()
        })?;
        self.invalidate(platform)
    }

    /// Empties the context cache and the IOTLB, by their registers.
    pub fn invalidate(&self, platform: &mut impl Platform) -> Outcome {
        let context = ContextCommand::new().with_granularity(1).with_invalidate(true);
        self.write_and_wait(platform, register::CONTEXT_COMMAND, context.into_bits())?;
        let iotlb = IotlbInvalidate::new().with_granularity(1).with_invalidate(true);
        let offset = self.extended.iotlb_offset() * 16 + register::IOTLB_INVALIDATE;
        self.write_and_wait(platform, offset, iotlb.into_bits())
    }

    /// The first fault record, which is then cleared, if it holds a fault.
    pub fn take_fault(&self, platform: &mut impl Platform) -> Option<FaultRecord> {
        let offset = self.capabilities.fault_offset() * 16;
        let low = platform.read64(self.window, offset);
        let high = platform.read64(self.window, offset + 8);
        let record = FaultRecord::from_bits(u128::from(high) << 64 | u128::from(low));
        if !record.fault() {
            return None;
        }
        let clear = FaultRecord::new().with_fault(true).into_bits();
        platform.write64(self.window, offset + 8, (clear >> 64) as u64);
        // The overflow bit and its like are cleared by ones as well.
        let status = platform.read32(self.window, register::FAULT_STATUS);
        platform.write32(self.window, register::FAULT_STATUS, status);
        Some(record)
    }

    /// Every bit of the command register acts anew on each write: what is on is said again.
    fn command(&self, platform: &mut impl Platform, command: Global) -> Outcome {
        platform.write32(self.window, register::GLOBAL_COMMAND, command.into_bits());
        Ok(())
    }

    /// Writes a command whose highest bit is clear once it is done.
    fn write_and_wait(&self, platform: &mut impl Platform, offset: usize, bits: u64) -> Outcome {
        platform.write64(self.window, offset, bits);
        self.wait(platform, "an invalidation does not end", |unit, platform| {
            platform.read64(unit.window, offset) >> 63 == 0
        })
    }

    fn wait<P: Platform>(
        &self,
        platform: &mut P,
        otherwise: &str,
        done: impl Fn(&Self, &mut P) -> bool,
    ) -> Outcome {
        let start = platform.now();
        while !done(self, platform) {
            require!(platform.now().since(start) < PATIENCE, "{otherwise}");
            spin();
        }
        Ok(())
    }
}

/// Writes an entry of 128 bits, its upper half first: the lower one says that it is present.
pub fn write_entry(
    platform: &impl Platform,
    table: PhysAddr,
    index: usize,
    entry: impl Into<u128>,
) -> Outcome {
    let entry = entry.into();
    write_word(platform, table, 2 * index + 1, (entry >> 64) as u64)?;
    write_word(platform, table, 2 * index, entry as u64)
}

/// Reads an entry of 128 bits.
fn read_entry(platform: &impl Platform, table: PhysAddr, index: usize) -> Outcome<u128> {
    let words = platform.table(table).ok_or(Failure("no such table".into()))?;
    let word = |at: usize| words.get(at).map(|word| u128::from(word.load(Ordering::Acquire)));
    let entry = || Some(word(2 * index + 1)? << 64 | word(2 * index)?);
    entry().ok_or(Failure("no such entry".into()))
}

/// Writes a word of a table.
pub fn write_word(platform: &impl Platform, table: PhysAddr, index: usize, word: u64) -> Outcome {
    let words = platform.table(table).ok_or(Failure("no such table".into()))?;
    let place = words.get(index).ok_or(Failure("no such entry".into()))?;
    place.store(word, Ordering::Release);
    platform.flush_entries(table, index..index + 1);
    Ok(())
}

/// Whether a fault is just this one.
pub fn check_fault(
    fault: Option<FaultRecord>,
    source: SourceId,
    address: u64,
    reason: u8,
    read: bool,
) -> Outcome {
    let fault = fault.ok_or(Failure("no fault is recorded".into()))?;
    let found = (fault.source(), fault.page() << 12, fault.reason(), fault.read());
    let expected = (source.get(), address & !0xfff, reason, read);
    require!(found == expected, "the fault says {found:x?}, and not {expected:x?}");
    Ok(())
}
