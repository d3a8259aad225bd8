//! What the programs will need of the machine is there: devices, tables, registers, memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::process::run;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::devices;
use crate::failure::{Failure, Outcome, require};
use crate::map::Map;
use crate::physical;

const HUGE_PAGE: usize = 2 << 20;

/// `edu`'s registers (QEMU `docs/specs/edu.rst`): what it is, and one that gives back the inverse of
/// what was written to it.
const EDU_IDENTIFICATION: usize = 0x00;
const EDU_LIVENESS: usize = 0x04;

/// VT-d's registers (VT-d specification, 11.4): version, capabilities. They are one page at least.
const VTD_VERSION: usize = 0x00;
const VTD_CAPABILITIES: usize = 0x08;
const VTD_BYTES: usize = 4096;

/// The DMAR table (VT-d specification, 8.1 and 8.3): the first structure follows the header, and the first
/// is a unit's, with the address of its registers after type, length, flags and segment.
const DMAR: &str = "/sys/firmware/acpi/tables/DMAR";
const DMAR_HEADER: usize = 48;
const DRHD: [u8; 2] = [0, 0];
const DRHD_REGISTERS: usize = 8;

pub(super) fn busybox_runs() -> Outcome {
    let mut echo = Command::new("/bin/sh");
    echo.args(["-c", "echo $((6 * 7))"]);
    let end = run(echo, Duration::from_secs(5))?;
    require!(end.lines == ["42"], "sh says {:?}", end.lines);
    Ok(())
}

pub(super) fn edu_answers_on_bar0() -> Outcome {
    let edus = devices::edus()?;
    require!(edus.len() == 2, "{} edu devices instead of 2", edus.len());
    for edu in edus {
        let bar = edu.bar0()?;
        let identification = bar.read32(EDU_IDENTIFICATION)?;
        require!(identification & 0xffff == 0x00ed, "{}: is {identification:#x}", edu.name());
        bar.write32(EDU_LIVENESS, 0x1234_5678)?;
        let inverse = bar.read32(EDU_LIVENESS)?;
        require!(inverse == !0x1234_5678, "{}: gives back {inverse:#x}", edu.name());
    }
    Ok(())
}

pub(super) fn dmar_is_readable() -> Outcome {
    let dmar = fs::read(DMAR)?;
    require!(dmar.starts_with(b"DMAR"), "the table begins with {:?}", dmar.get(..4));
    vtd_registers(&dmar).map(drop)
}

pub(super) fn vtd_registers_map() -> Outcome {
    let base = vtd_registers(&fs::read(DMAR)?)?;
    let registers = Map::of_file(Path::new("/dev/mem"), base, VTD_BYTES)?;
    let version = registers.read32(VTD_VERSION)?;
    require!(version >> 4 == 1, "the unit at {base:#x} has version {version:#x}");
    let capabilities = registers.read64(VTD_CAPABILITIES)?;
    require!(capabilities != 0 && capabilities != u64::MAX, "capabilities are {capabilities:#x}");
    Ok(())
}

pub(super) fn huge_page_has_an_address() -> Outcome {
    let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
    let memory = memfd_create("window", flags)?;
    ftruncate(&memory, HUGE_PAGE as u64)?;
    let map = Map::of(&memory, 0, HUGE_PAGE)?;
    map.write32(0, 1)?;
    let first = physical::address_of(map.address())?;
    require!(first.is_multiple_of(HUGE_PAGE as u64), "a huge page at {first:#x}");
    let last = physical::address_of(map.address() + HUGE_PAGE - 4096)?;
    require!(last - first == HUGE_PAGE as u64 - 4096, "from {first:#x} to {last:#x}");
    Ok(())
}

fn vtd_registers(dmar: &[u8]) -> Outcome<u64> {
    let unit = dmar.get(DMAR_HEADER..).filter(|unit| unit.starts_with(&DRHD));
    let base = unit.and_then(|unit| unit.get(DRHD_REGISTERS..)?.first_chunk().copied());
    base.map(u64::from_le_bytes).ok_or_else(|| Failure("the first structure is no unit".into()))
}
