//! t4: a Redox that somebody built with our packages in it, booted on machines with either IOMMU and with none. Its
//! self-test (`tests/redox`) tells on the serial console how it went.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::case::{Case, Verdict};
use agent::machine::Found;
use agent::process::Process;

use crate::cargo::{root, scratch_dir};
use crate::console::Console;
use crate::disk;
use crate::qemu::{self, Iommu, Qemu};
use crate::report::Report;
use crate::suite::emulator;

/// The environment variable that names the image: a raw disk that a BIOS boots.
const VARIABLE: &str = "REDOX_IMAGE";

/// A machine that the image is booted on.
struct Machine {
    name: &'static str,
    iommu: Iommu,
    expected: Found,
}

const MACHINES: [Machine; 3] = [
    Machine {
        name: "vtd",
        iommu: Iommu::Vtd { bits: 48, caching_mode: false },
        expected: Found::Vtd,
    },
    Machine { name: "amdvi", iommu: Iommu::AmdVi, expected: Found::AmdVi },
    Machine { name: "none", iommu: Iommu::None, expected: Found::Nothing },
];

/// Two devices on the root bus, that know addresses of 64 bits.
const DEVICES: [&str; 2] = ["edu,dma_mask=0xffffffffffffffff"; 2];

/// A disk that is behind the IOMMU, like all other devices.
const VIRTIO_DISK: &str = "virtio-blk-pci,drive=virtio,disable-legacy=on,iommu_platform=on";

/// From the boot loader to the last case: a minute on two cores that have nothing else to do.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(report: &mut Report) {
    let Some(image) = env::var_os(VARIABLE).map(|image| root().join(image)) else {
        let why = format!("{VARIABLE} names no image (cookbook/README.md tells how to build one)");
        let verdict = Verdict::Skipped(why);
        return report.case(&Case { name: "boot".into(), verdict });
    };
    match fs::metadata(&image) {
        Ok(found) if found.is_dir() => {
            return report.failed("image", &format!("{} is a folder", image.display()));
        }
        Ok(_) => {}
        Err(error) => return report.failed("image", &format!("{}: {error}", image.display())),
    }
    let Some(qemu) = emulator(report) else { return };
    if let Err(error) = fs::create_dir_all(scratch_dir()) {
        return report.failed("scratch folder", &error.to_string());
    }
    let known = scratch_dir().join("redox-known.raw");
    if let Err(error) = fs::write(&known, disk::known()) {
        return report.failed("disk", &format!("{}: {error}", known.display()));
    }
    for machine in &MACHINES {
        judge(report, machine, machine.command(&qemu, &image, &known));
    }
}

fn judge(report: &mut Report, machine: &Machine, command: Command) {
    let words = log(machine.name, "qemu");
    let mut console = Console::default();
    // Below a case that failed the self-test writes what was seen.
    let mut telling = false;
    let booted = Process::start(qemu::with_words_in(&command, &words)).and_then(|mut process| {
        let done = process.wait_for("the end of the self-test", LIMIT, |line| {
            if let Some(Case { name, verdict }) = console.read(line) {
                telling = matches!(verdict, Verdict::Failed(_));
                report.case(&Case { name: format!("{}: {name}", machine.name), verdict });
            } else if telling && line.starts_with("  | ") {
                report.output(&[line.trim_start_matches("  | ").to_owned()]);
            }
            console.is_done()
        });
        // Redox is not asked to end, and its disks are forgotten: QEMU goes with its process.
        done.map(|_| process.seen().to_vec())
    });
    let (lines, ended) = match booted {
        Ok(lines) => (lines, None),
        Err(error) => (error.lines().to_vec(), Some(error.to_string())),
    };
    let kept = log(machine.name, "console");
    if let Err(error) = fs::write(&kept, lines.join("\n")) {
        report.note(&format!("{}: {error}", kept.display()));
    }
    let fault = console.fault(machine.expected);
    if let Some(why) = ended.or(fault) {
        report.failed(&format!("{}: boot", machine.name), &why);
        report.note(&format!("the console is in {}", kept.display()));
        report.output(&lines);
        // A machine that does not even start has nothing on its console.
        let said = fs::read_to_string(&words).unwrap_or_default();
        report.output(&said.lines().map(str::to_owned).collect::<Vec<_>>());
    }
}

/// Where what is said on a machine is kept.
fn log(machine: &str, whose: &str) -> PathBuf {
    scratch_dir().join(format!("redox-{machine}-{whose}.log"))
}

impl Machine {
    /// Starts it, with its serial line as QEMU's output. Whatever is written to the image is forgotten.
    fn command(&self, qemu: &Qemu, image: &Path, known: &Path) -> Command {
        let mut machine = qemu::machine("1G");
        // Redox takes its random numbers from the processor.
        machine.args(["-cpu", "max", "-serial", "stdio"]);
        machine.args([
            "-drive",
            &disk::drive(image, "boot"),
            "-device",
            "ide-hd,drive=boot,bootindex=0",
        ]);
        let iommu = self.iommu.device(qemu);
        for device in iommu.iter().map(String::as_str).chain(DEVICES) {
            machine.args(["-device", device]);
        }
        machine.args([
            "-drive",
            &disk::drive(known, "known"),
            "-device",
            "nvme,drive=known,serial=known",
            "-drive",
            &disk::drive(known, "virtio"),
            "-device",
            VIRTIO_DISK,
        ]);
        machine
    }
}
