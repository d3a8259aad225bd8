//! t2: the programs, linked statically, as processes in a Linux guest whose init is the agent `guest`, booted once
//! for each vendor's IOMMU, and without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::boot::{Shared, boot, side_by_side};
use crate::cargo::{Failure, build, cargo, scratch_dir, target_dir};
use crate::cpio::Archive;
use crate::debian::{busybox, install, kernel};
use crate::disk;
use crate::qemu::{self, Iommu, Qemu};
use crate::report::Report;
use crate::suite::emulator;

/// The packages whose programs are put on the guest's path. The first is its init.
const PACKAGES: [&str; 4] = ["guest", "iommud", "edud", "virtio-blkd"];

/// A target named outright, so that the flags do not reach the build's own tools.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Linux leaves the IOMMU alone (nothing else may drive it), has no secrets about where it is, gives 64
/// huge pages of 2 MiB to whoever makes a hugetlb memfd, and ends QEMU when it panics. It does not try out whether
/// timer interrupts come: on a busy host they come too late for it.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 nokaslr intel_iommu=off amd_iommu=off intremap=off \
    memmap=64M$0x10000000 hugepages=64 panic=-1 no_timer_check";

/// A machine that the guest is booted on.
struct Machine {
    name: &'static str,
    iommu: Iommu,
    /// What tells the agent which cases to run.
    cases: &'static str,
}

const MACHINES: [Machine; 3] = [
    Machine { name: "vtd", iommu: Iommu::Vtd { bits: 48, caching_mode: false }, cases: "" },
    Machine { name: "amdvi", iommu: Iommu::AmdVi, cases: "" },
    Machine { name: "none", iommu: Iommu::None, cases: "-- without-iommu" },
];

/// Two `edu` devices below the IOMMU, one on the root bus and one behind a port.
const DEVICES: [&str; 3] = [
    "edu,addr=0x4,dma_mask=0xffffffffffffffff",
    "pcie-root-port,id=port0,addr=0x5,chassis=1,slot=1",
    "edu,bus=port0,dma_mask=0xffffffffffffffff",
];

/// Both on the root bus, where a QEMU cannot do better.
const DEVICES_TOGETHER: [&str; 2] =
    ["edu,addr=0x4,dma_mask=0xffffffffffffffff", "edu,addr=0x5,dma_mask=0xffffffffffffffff"];

/// Two disks, of which the second does not use the IOMMU and has nothing in it.
const DISKS: [&str; 2] = [
    "virtio-blk-pci,addr=0x6,drive=disk,disable-legacy=on,iommu_platform=on",
    "virtio-blk-pci,addr=0x7,drive=nothing,disable-legacy=on",
];

const BUILD_LIMIT: Duration = Duration::from_secs(900);
const BOOT_LIMIT: Duration = Duration::from_secs(360);

pub(super) fn run(report: &mut Report) {
    let Some(qemu) = emulator(report) else { return };
    let contents = match Contents::build() {
        Ok(contents) => contents,
        Err(failure) => {
            report.failed("build", &failure.why);
            return report.output(&failure.lines);
        }
    };
    let report = Shared::new(report);
    side_by_side(&MACHINES, |machine| {
        if let Err(error) = fs::write(machine.disk(), disk::known()) {
            let why = format!("{}: {error}", machine.disk().display());
            return report.lock().failed("disk", &why);
        }
        judge(&report, machine.name, machine.command(&qemu, &contents, machine.cases));
        judge_disk(*report.lock(), machine);
    });
}

/// Boots the guest with a shell on this terminal instead of the cases, on the machine of this name.
pub fn shell(name: &str) -> Result<(), String> {
    let names = MACHINES.map(|machine| machine.name).join(" or ");
    let machine = MACHINES.iter().find(|machine| machine.name == name);
    let machine = machine.ok_or(format!("there is no machine {name}, but {names}"))?;
    install(&[qemu::NEED]).map_err(|error| error.to_string())?;
    let qemu = Qemu::find()?;
    let contents =
        Contents::build().map_err(|failure| [failure.lines.join("\n"), failure.why].join("\n"))?;
    fs::write(machine.disk(), disk::known()).map_err(|error| error.to_string())?;
    let mut command = machine.command(&qemu, &contents, "-- shell");
    command.args(["-serial", "mon:stdio"]);
    println!("Leave with `exit`, or with Ctrl-A X.");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("QEMU ended with {status}")),
        Err(error) => Err(format!("QEMU: {error}")),
    }
}

/// Linux's own words go to a file, and QEMU's to another; the agent has a serial line for itself, so that they
/// never mix.
fn judge(report: &Shared<'_>, name: &str, mut machine: Command) {
    let [console, words] =
        ["console", "qemu"].map(|whose| scratch_dir().join(format!("guest-{name}-{whose}.log")));
    machine.arg("-serial").arg(format!("file:{}", console.display()));
    machine.args(["-serial", "stdio"]);
    let machine = qemu::with_words_in(&machine, &words);
    let boot = boot(report, &format!("{name}: "), machine, BOOT_LIMIT);
    let Some(fault) = boot.fault(&[0]) else { return };
    let mut report = report.lock();
    report.failed(&format!("{name}: boot"), &fault);
    report.output(&boot.lines);
    for (whose, file) in [("Linux", console), ("QEMU", words)] {
        report.note(&format!("{whose}'s last words ({}):", file.display()));
        let words = fs::read(file).unwrap_or_default();
        let words: Vec<_> = String::from_utf8_lossy(&words).lines().map(String::from).collect();
        report.output(&words);
    }
}

/// What the driver said it had written is on the disk, and nothing else is.
fn judge_disk(report: &mut Report, machine: &Machine) {
    let name = format!("{}: the_disk_has_what_its_driver_wrote", machine.name);
    match fs::read(machine.disk()) {
        Ok(bytes) if bytes == disk::known_and_written() => report.passed(&name),
        Ok(_) => report.failed(&name, &format!("{} has something else", machine.disk().display())),
        Err(error) => report.failed(&name, &error.to_string()),
    }
}

/// All that is in the guest.
pub(crate) struct Contents {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// What is on the guest's path, which the host can run as well.
    pub(crate) programs: Vec<PathBuf>,
}

impl Contents {
    pub(crate) fn build() -> Result<Self, Failure> {
        let (kernel, programs) = (kernel()?, programs()?);
        let archive = initramfs(&busybox()?, &programs)?;
        let initramfs = scratch_dir().join("initramfs.cpio");
        fs::write(&initramfs, archive)?;
        Ok(Self { kernel, initramfs, programs })
    }
}

impl Machine {
    /// The file that its disk is in.
    fn disk(&self) -> PathBuf {
        scratch_dir().join(format!("guest-{}-disk.raw", self.name))
    }

    /// Starts it, with these words for the agent. What it wants on its serial lines is for the caller to add.
    fn command(&self, qemu: &Qemu, contents: &Contents, arguments: &str) -> Command {
        let mut machine = qemu::machine("1G");
        machine.args(["-smp", "2"]);
        machine.arg("-kernel").arg(&contents.kernel).arg("-initrd").arg(&contents.initramfs);
        machine.arg("-append").arg(format!("{COMMAND_LINE} {arguments}"));
        let below: &[&str] =
            if self.iommu.sees_past_bridges(qemu) { &DEVICES } else { &DEVICES_TOGETHER };
        let disk = disk::file(&self.disk());
        machine.args(["-drive", &format!("file={disk},format=raw,if=none,id=disk")]);
        machine.args(["-drive", "driver=null-co,read-zeroes=on,size=1M,if=none,id=nothing"]);
        let iommu = self.iommu.device(qemu);
        let below = below.iter().chain(&DISKS).copied();
        for device in iommu.iter().map(String::as_str).chain(below) {
            machine.args(["-device", device]);
        }
        machine
    }
}

fn programs() -> Result<Vec<PathBuf>, Failure> {
    let mut command = cargo();
    command.args(["build", "--release", "--bins", "--target", TARGET]);
    command.arg("--target-dir").arg(target_dir().join("guest"));
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    build(command, BUILD_LIMIT)
}

fn initramfs(busybox: &Path, programs: &[PathBuf]) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "proc", "run", "sys", "tmp"] {
        archive.directory(directory);
    }
    // Before anything is mounted, init already needs what its standard streams are.
    archive.char_device("dev/console", 5, 1);
    archive.char_device("dev/null", 1, 3);
    archive.program("bin/busybox", &fs::read(busybox)?);
    archive.symlink("bin/sh", "busybox");
    for program in programs {
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        archive.program(&format!("bin/{name}"), &fs::read(program)?);
    }
    archive.symlink("init", "bin/guest");
    Ok(archive.finish())
}
