//! t1: the bare guest `metal`, booted once on each variant of a machine with VT-d.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::boot::boot;
use crate::cargo::{cargo, executables, scratch_dir};
use crate::debian::install;
use crate::process::run as run_process;
use crate::qemu;
use crate::report::Report;

/// A machine that the guest is booted on, and which of its cases are run there.
struct Variant {
    name: &'static str,
    /// The guest's command line: names of its suites and cases.
    cases: &'static str,
    /// QEMU's devices, in the order in which they are made.
    devices: &'static [&'static str],
}

/// Masks nothing: the device's default of 28 bits would hide what the I/O address really is.
const EDU: &str = "edu,dma_mask=0xffffffffffffffff";

const VARIANTS: [Variant; 5] = [
    Variant { name: "none", cases: "bare none", devices: &[EDU] },
    Variant {
        name: "aw39",
        cases: "vtd engine",
        devices: &["intel-iommu,intremap=off,aw-bits=39", EDU],
    },
    Variant {
        name: "aw48",
        cases: "vtd engine",
        devices: &["intel-iommu,intremap=off,aw-bits=48", EDU],
    },
    Variant {
        name: "caching-mode",
        cases: "vtd engine",
        devices: &["intel-iommu,intremap=off,aw-bits=48,caching-mode=on", EDU],
    },
    Variant {
        name: "root-port",
        cases: "vtd engine",
        devices: &[
            "intel-iommu,intremap=off,aw-bits=48",
            "pcie-root-port,id=root-port,chassis=1,slot=1",
            "edu,bus=root-port,dma_mask=0xffffffffffffffff",
        ],
    },
];

/// The guest's way out: a byte `b` written here ends QEMU with exit code `2 * b + 1`.
const EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x4";

/// QEMU's exit codes when all the guest's cases hold, and when some do not. Any other is a crash.
const ENDS: [i32; 2] = [33, 35];

const BUILD_LIMIT: Duration = Duration::from_secs(600);
const BOOT_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(report: &mut Report) {
    if let Err(error) = install(&[qemu::NEED]) {
        return report.failed("packages", &error.to_string());
    }
    match qemu::describe() {
        Ok(version) => report.note(&version),
        Err(why) => return report.failed("qemu", &why),
    }
    if let Err(error) = fs::create_dir_all(scratch_dir()) {
        return report.failed("scratch folder", &error.to_string());
    }
    let Some(image) = build(report) else { return };
    for variant in &VARIANTS {
        boot_variant(report, variant, &image);
    }
}

fn build(report: &mut Report) -> Option<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--package",
        "metal",
        "--bin",
        "metal",
        "--features",
        "image",
    ]);
    command.arg("--message-format=json-render-diagnostics");
    match run_process(command, BUILD_LIMIT) {
        Ok(end) if end.status.success() => {
            let image = executables(&end.lines).pop();
            if image.is_none() {
                report.failed("build", "cargo made no image");
            }
            image
        }
        Ok(end) => {
            report.failed("build", &end.status.to_string());
            report.output(&end.lines);
            None
        }
        Err(error) => {
            report.failed("build", &error.to_string());
            report.output(error.lines());
            None
        }
    }
}

fn boot_variant(report: &mut Report, variant: &Variant, image: &Path) {
    let mut machine = qemu::machine("256M");
    machine.args(["-cpu", "max", "-serial", "stdio", "-device", EXIT]);
    machine.arg("-kernel").arg(image).args(["-append", variant.cases]);
    for device in variant.devices {
        machine.args(["-device", device]);
    }
    // QEMU complains of every transfer that is blocked: kept where a person finds it.
    let words = scratch_dir().join(format!("metal-{}-qemu.log", variant.name));
    let machine = qemu::with_words_in(&machine, &words);
    let boot = boot(report, &format!("{}: ", variant.name), machine, BOOT_LIMIT);
    if let Some(fault) = boot.fault(&ENDS) {
        report.failed(&format!("{}: boot", variant.name), &fault);
        report.output(&boot.lines);
    }
}
