//! The machine's one unit, as the agent sees it without the engine.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Outcome, require};
use crate::map::Map;

/// The DMAR table (VT-d specification, 8.1 and 8.3): the first structure follows the header, and the first is a
/// unit's, with the address of its registers after type, length, flags and segment.
const TABLE: &str = "/sys/firmware/acpi/tables/DMAR";
const HEADER: usize = 48;
const UNIT: [u8; 2] = [0, 0];
const REGISTERS: usize = 8;

/// The registers (VT-d specification, 11.4): version, capabilities. They are one page at least.
const VERSION: usize = 0x00;
const CAPABILITIES: usize = 0x08;
const BYTES: usize = 4096;

/// The capability of zero-length reads (VT-d specification, 11.4.2), without which memory that a device may
/// write it may also read.
const ZERO_LENGTH_READS: u64 = 1 << 22;

/// Where the unit's registers are.
pub(crate) fn base() -> Outcome<u64> {
    let dmar = fs::read(TABLE)?;
    require!(dmar.starts_with(b"DMAR"), "the table begins with {:?}", dmar.get(..4));
    let unit = dmar.get(HEADER..).filter(|unit| unit.starts_with(&UNIT));
    let base = unit.and_then(|unit| unit.get(REGISTERS..)?.first_chunk().copied());
    base.map(u64::from_le_bytes).ok_or_else(|| Failure("the first structure is no unit".into()))
}

/// Its version register.
pub(crate) fn version() -> Outcome<u32> {
    map()?.read32(VERSION)
}

/// Its capability register.
pub(crate) fn capabilities() -> Outcome<u64> {
    map()?.read64(CAPABILITIES)
}

/// Whether it can tell writing from reading and writing (rule R6).
pub(crate) fn can_map_write_only() -> Outcome<bool> {
    Ok(capabilities()? & ZERO_LENGTH_READS != 0)
}

fn map() -> Outcome<Map> {
    Map::of_file(Path::new("/dev/mem"), base()?, BYTES)
}
