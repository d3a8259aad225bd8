//! t1: the bare guest `metal`, booted once on each variant of a machine with VT-d or AMD-Vi.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::boot::{Shared, boot, side_by_side};
use crate::cargo::{Failure, build, cargo, scratch_dir};
use crate::qemu::{self, Iommu, Qemu};
use crate::report::Report;
use crate::suite::emulator;
use agent::case::{Case, Verdict};

/// A machine that the guest is booted on, and which of its cases are run there.
struct Variant {
    name: &'static str,
    /// The guest's command line: names of its suites and cases.
    cases: &'static str,
    iommu: Iommu,
    /// QEMU's other devices, in the order in which they are made.
    devices: &'static [&'static str],
}

/// VT-d as most machines have it.
const VTD: Iommu = Iommu::Vtd { bits: 48, caching_mode: false };
/// VT-d that knows no table of four levels.
const SMALL: Iommu = Iommu::Vtd { bits: 39, caching_mode: false };

/// Masks nothing: the device's default of 28 bits would hide what the I/O address really is.
pub(crate) const EDU: &str = "edu,dma_mask=0xffffffffffffffff";
/// The same on the bus `below` of a bridge.
const EDU_BELOW: &str = "edu,bus=below,dma_mask=0xffffffffffffffff";
/// A device whose function can be reset, which `edu`'s cannot.
const RESETTABLE: &str = "nvme,serial=resettable";
const PORT: &str = "pcie-root-port,id=port0,chassis=1,slot=1";
const PORT_ALONE: &str = "pcie-root-port,id=below,chassis=1,slot=1";

/// No QEMU makes reserved ranges (RMRR, IVMD), several units, or scopes in its tables: those are cases on the simulator
/// alone.
const VARIANTS: [Variant; 15] = [
    Variant { name: "none", cases: "bare none", iommu: Iommu::None, devices: &[EDU] },
    Variant { name: "none-two", cases: "none-shared", iommu: Iommu::None, devices: &[EDU, EDU] },
    Variant { name: "vtd-39", cases: "vtd engine", iommu: SMALL, devices: &[EDU] },
    Variant { name: "vtd-48", cases: "vtd engine", iommu: VTD, devices: &[EDU] },
    Variant {
        name: "vtd-caching-mode",
        cases: "vtd engine",
        iommu: Iommu::Vtd { bits: 48, caching_mode: true },
        devices: &[EDU],
    },
    Variant {
        name: "vtd-39-caching-mode-port",
        cases: "vtd engine",
        iommu: Iommu::Vtd { bits: 39, caching_mode: true },
        devices: &[PORT_ALONE, EDU_BELOW],
    },
    Variant {
        name: "vtd-port",
        cases: "vtd engine",
        iommu: VTD,
        devices: &[PORT_ALONE, EDU_BELOW],
    },
    // A port beside it, so that the numbers of buses and slots differ.
    Variant {
        name: "vtd-switch",
        cases: "vtd engine",
        iommu: VTD,
        devices: &[
            "pcie-root-port,id=port1,chassis=9,slot=9",
            PORT,
            "x3130-upstream,id=up,bus=port0",
            "xio3130-downstream,id=below,bus=up,chassis=2,slot=2",
            EDU_BELOW,
        ],
    },
    // Its devices are seen as function 0 of the bus behind it.
    Variant {
        name: "vtd-pcie-pci-bridge",
        cases: "vtd engine group",
        iommu: VTD,
        devices: &[
            PORT,
            "pcie-pci-bridge,id=below,bus=port0",
            "edu,bus=below,addr=0x3,dma_mask=0xffffffffffffffff",
            "edu,bus=below,addr=0x5,dma_mask=0xffffffffffffffff",
        ],
    },
    // Its devices are seen as the bridge itself.
    Variant {
        name: "vtd-pci-bridge",
        cases: "vtd engine",
        iommu: SMALL,
        devices: &[
            "pci-bridge,id=below,chassis_nr=1",
            "edu,bus=below,addr=0x3,dma_mask=0xffffffffffffffff",
        ],
    },
    Variant {
        name: "vtd-ports",
        cases: "apart shared",
        iommu: VTD,
        devices: &[
            "pcie-root-port,id=port0,chassis=1,slot=1,addr=0x3.0,multifunction=on",
            "pcie-root-port,id=port1,chassis=2,slot=2,addr=0x3.1",
            "edu,bus=port0,dma_mask=0xffffffffffffffff",
            "edu,bus=port1,dma_mask=0xffffffffffffffff",
            RESETTABLE,
        ],
    },
    Variant {
        name: "vtd-ports-without-acs",
        cases: "group",
        iommu: VTD,
        devices: &[
            "pcie-root-port,id=port0,chassis=1,slot=1,addr=0x3.0,multifunction=on,disable-acs=on",
            "pcie-root-port,id=port1,chassis=2,slot=2,addr=0x3.1,disable-acs=on",
            "edu,bus=port0,dma_mask=0xffffffffffffffff",
            "edu,bus=port1,dma_mask=0xffffffffffffffff",
        ],
    },
    Variant {
        name: "amdvi-two",
        cases: "shared",
        iommu: Iommu::AmdVi,
        devices: &[EDU, EDU, RESETTABLE],
    },
    Variant { name: "amdvi", cases: "amdvi engine", iommu: Iommu::AmdVi, devices: &[EDU] },
    Variant {
        name: "amdvi-port",
        cases: "amdvi engine",
        iommu: Iommu::AmdVi,
        devices: &[PORT_ALONE, EDU_BELOW],
    },
];

impl Variant {
    fn runs_on(&self, qemu: &Qemu) -> bool {
        self.iommu.sees_past_bridges(qemu) || !self.devices.contains(&EDU_BELOW)
    }
}

/// The guest's way out: a byte `b` written here ends QEMU with exit code `2 * b + 1`.
pub(crate) const EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x4";

/// Time is the number of instructions, 64 ns each: a transfer of `edu`'s takes the guest's 100 ms and next to none
/// of the host's, deadlines do not depend on how busy the host is, and a boot repeats to the instruction.
const TIME: &str = "shift=6,sleep=off";

/// QEMU's exit codes when all the guest's cases hold, and when some do not. Any other is a crash.
pub(crate) const ENDS: [i32; 2] = [33, 35];

const BUILD_LIMIT: Duration = Duration::from_secs(600);
const BOOT_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(report: &mut Report) {
    let Some(qemu) = emulator(report) else { return };
    if let Err(error) = fs::create_dir_all(scratch_dir()) {
        return report.failed("scratch folder", &error.to_string());
    }
    let image = match image() {
        Ok(image) => image,
        Err(failure) => {
            report.failed("build", &failure.why);
            return report.output(&failure.lines);
        }
    };
    let report = Shared::new(report);
    side_by_side(&VARIANTS, |variant| {
        if variant.runs_on(&qemu) {
            if !variant.iommu.tells_what_it_blocks(&qemu) {
                report.lock().note(&format!(
                    "{}: this QEMU's AMD-Vi logs no events; of a blocked access the cases see that no data moved",
                    variant.name
                ));
            }
            boot_variant(&report, variant, &qemu, &image);
        } else {
            let why = "this QEMU's AMD-Vi is broken behind bridges".to_owned();
            let case = Case { name: variant.name.to_owned(), verdict: Verdict::Skipped(why) };
            report.lock().case(&case);
        }
    });
}

/// Builds the guest's image.
pub(crate) fn image() -> Result<PathBuf, Failure> {
    let mut command = cargo();
    let package = ["--package", "metal", "--bin", "metal", "--features", "image"];
    command.args(["build", "--release"]).args(package);
    let nothing = || Failure { why: "cargo made no image".into(), lines: Vec::new() };
    build(command, BUILD_LIMIT)?.pop().ok_or_else(nothing)
}

fn boot_variant(report: &Shared<'_>, variant: &Variant, qemu: &Qemu, image: &Path) {
    let mut machine = qemu::machine("256M");
    machine.args(["-cpu", "max", "-icount", TIME, "-serial", "stdio", "-device", EXIT]);
    machine.arg("-kernel").arg(image).args(["-append", variant.cases]);
    let iommu = variant.iommu.device(qemu);
    for device in iommu.iter().map(String::as_str).chain(variant.devices.iter().copied()) {
        machine.args(["-device", device]);
    }
    // QEMU complains of every transfer that is blocked: kept where a person finds it.
    let words = scratch_dir().join(format!("metal-{}-qemu.log", variant.name));
    let machine = qemu::with_words_in(&machine, &words);
    let boot = boot(report, &format!("{}: ", variant.name), machine, BOOT_LIMIT);
    if let Some(fault) = boot.fault(&ENDS) {
        let mut report = report.lock();
        report.failed(&format!("{}: boot", variant.name), &fault);
        report.output(&boot.lines);
    }
}
