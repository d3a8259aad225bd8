//! The machine's one unit, whoever made it, as the agent sees it without the engine.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Outcome, require};
use crate::map::Map;
use crate::programs::wait_until;

/// Where Linux shows the firmware's tables.
const TABLES: &str = "/sys/firmware/acpi/tables";

/// In DMAR and IVRS alike (VT-d specification, 8.1 and 8.3; AMD's 48882 on the IVRS), the first structure follows
/// a header of 48 bytes, and the first is a unit's, with the address of its registers at the same place.
const HEADER: usize = 48;
const REGISTERS: usize = 8;

/// VT-d's registers (VT-d specification, 11.4).
mod vtd {
    /// The version. The unit that QEMU has is a 1.0.
    pub(super) const VERSION: usize = 0x00;
    /// The capabilities, among them zero-length reads, without which memory that a device may write it may also
    /// read.
    pub(super) const CAPABILITIES: usize = 0x08;
    pub(super) const ZERO_LENGTH_READS: u64 = 1 << 22;
    /// What is to be on, and what is; the highest bit of each is translation.
    pub(super) const COMMAND: usize = 0x18;
    pub(super) const STATUS: usize = 0x1c;
    pub(super) const TRANSLATION: u32 = 1 << 31;
}

/// AMD-Vi's registers (48882, the MMIO registers).
mod amdvi {
    /// What is to be on.
    pub(super) const CONTROL: usize = 0x18;
    /// Extended features.
    pub(super) const FEATURES: usize = 0x30;
}

/// The registers of either are a page at least.
const BYTES: usize = 4096;

/// Who made it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
}

/// The unit, its registers mapped.
pub(crate) struct Unit {
    vendor: Vendor,
    base: u64,
    registers: Map,
}

impl Unit {
    /// Finds it through whichever table the firmware has.
    pub(crate) fn find() -> Outcome<Self> {
        let vendors = [
            (Vendor::Intel, "DMAR", &[0, 0][..], &[0, 0][..]),
            (Vendor::Amd, "IVRS", &[0x10], &[0x40]),
        ];
        for (vendor, name, first, last) in vendors {
            let Ok(table) = fs::read(Path::new(TABLES).join(name)) else { continue };
            require!(
                table.starts_with(name.as_bytes()),
                "the {name} begins with {:?}",
                &table[..4]
            );
            let structure = table.get(HEADER..).unwrap_or_default();
            let kind = structure.get(..first.len()).unwrap_or_default();
            require!((first..=last).contains(&kind), "the first structure of {name} is no unit");
            let base = structure.get(REGISTERS..).and_then(|rest| rest.first_chunk().copied());
            let base = base.map(u64::from_le_bytes);
            let base = base.ok_or_else(|| Failure(format!("{name} is cut off")))?;
            let registers = Map::of_file(Path::new("/dev/mem"), base, BYTES)?;
            return Ok(Self { vendor, base, registers });
        }
        Err(Failure("the firmware tells of no unit".into()))
    }

    /// Its kind, in iommuctl's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.vendor {
            Vendor::Intel => "VT-d",
            Vendor::Amd => "AMD-Vi",
        }
    }

    /// Where its registers are.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Whether what is there are the registers of such a unit.
    pub(crate) fn check(&self) -> Outcome {
        let says = match self.vendor {
            Vendor::Intel => {
                let version = self.registers.read32(vtd::VERSION)?;
                require!(version >> 4 == 1, "the unit has version {version:#x}");
                self.registers.read64(vtd::CAPABILITIES)?
            }
            Vendor::Amd => self.registers.read64(amdvi::FEATURES)?,
        };
        require!(says != 0 && says != u64::MAX, "what it can do reads {says:#x}");
        Ok(())
    }

    /// Turns it off, behind iommud's back: every device reaches all memory.
    pub(crate) fn turn_off(&self) -> Outcome {
        match self.vendor {
            Vendor::Intel => {
                self.registers.write32(vtd::COMMAND, 0)?;
                wait_until("translation is off", || {
                    Ok(self.registers.read32(vtd::STATUS)? & vtd::TRANSLATION == 0)
                })
            }
            Vendor::Amd => self.registers.write64(amdvi::CONTROL, 0),
        }
    }

    /// Whether it can tell writing from reading and writing (rule R6).
    pub(crate) fn can_map_write_only(&self) -> Outcome<bool> {
        Ok(match self.vendor {
            Vendor::Intel => {
                self.registers.read64(vtd::CAPABILITIES)? & vtd::ZERO_LENGTH_READS != 0
            }
            Vendor::Amd => true,
        })
    }

    /// Whether it tells of each access that it blocks, with address and direction. QEMU's AMD-Vi tells of none
    /// up to version 10, and from then on of some, without the address: there only the data shows it.
    pub(crate) fn tells_what_it_blocks(&self) -> bool {
        self.vendor == Vendor::Intel
    }
}
