//! t1: the bare guest `metal`, booted once on each variant of a machine with VT-d.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::boot::boot;
use crate::cargo::{cargo, executables};
use crate::debian::install;
use crate::process::run as run_process;
use crate::qemu;
use crate::report::Report;

/// A machine that the guest is booted on.
struct Variant {
    name: &'static str,
    /// QEMU's devices, in the order in which they are made.
    devices: &'static [&'static str],
}

/// Masks nothing: the device's default of 28 bits would hide what the I/O address really is.
const EDU: &str = "edu,dma_mask=0xffffffffffffffff";

const VARIANTS: [Variant; 4] = [
    Variant { name: "aw39", devices: &["intel-iommu,intremap=off,aw-bits=39", EDU] },
    Variant { name: "aw48", devices: &["intel-iommu,intremap=off,aw-bits=48", EDU] },
    Variant {
        name: "aw48-caching",
        devices: &["intel-iommu,intremap=off,aw-bits=48,caching-mode=on", EDU],
    },
    Variant {
        name: "aw48-root-port",
        devices: &[
            "intel-iommu,intremap=off,aw-bits=48",
            "pcie-root-port,id=root-port,chassis=1,slot=1",
            "edu,bus=root-port,dma_mask=0xffffffffffffffff",
        ],
    },
];

/// The guest's way out: a byte `b` written here ends QEMU with exit code `2 * b + 1`.
const EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x04";

/// QEMU's exit code when the guest wrote [`EXIT`] the byte 0x10, its word for "all is well".
const SUCCESS: i32 = 0x21;

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
    let Some(image) = build(report) else { return };
    for variant in &VARIANTS {
        boot_variant(report, variant, &image);
    }
}

fn build(report: &mut Report) -> Option<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "metal", "--bin", "metal"]);
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
    let mut machine: Command = qemu::machine("256M");
    machine.arg("-kernel").arg(image).args(["-serial", "stdio", "-device", EXIT]);
    for device in variant.devices {
        machine.args(["-device", device]);
    }
    let boot = boot(report, &format!("{}/", variant.name), machine, BOOT_LIMIT);
    let why = match &boot.ended {
        Err(why) => why.clone(),
        Ok(_) if boot.cases == 0 => "no case was reported".into(),
        Ok(status) if status.code() != Some(SUCCESS) => format!("QEMU ended with {status}"),
        Ok(_) => return,
    };
    report.failed(&format!("{}/boot", variant.name), &why);
    report.output(&boot.lines);
}
