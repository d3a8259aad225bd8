//! t2: the programs, linked statically, as processes in a Linux guest whose init is the agent `guest`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::boot::boot;
use crate::cargo::{cargo, executables, scratch_dir, target_dir};
use crate::cpio::Archive;
use crate::debian::{busybox, install, kernel};
use crate::process::run as run_process;
use crate::qemu;
use crate::report::Report;

/// The packages whose programs are put on the guest's path. The first is its init.
const PACKAGES: [&str; 3] = ["guest", "iommud", "edud"];

/// A target named outright, so that the flags do not reach the build's own tools.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Linux leaves the IOMMU alone (nothing else may drive it), has no secrets about where it is, gives 64
/// huge pages of 2 MiB to whoever makes a hugetlb memfd, and ends QEMU when it panics.
const COMMAND_LINE: &str = "console=ttyS0 nokaslr intel_iommu=off amd_iommu=off intremap=off \
    memmap=64M$0x10000000 hugepages=64 panic=-1";

/// Two `edu` devices, one on the root bus and one behind a port, with an IOMMU above both.
const DEVICES: [&str; 4] = [
    "intel-iommu,intremap=off,aw-bits=48",
    "edu,addr=0x4,dma_mask=0xffffffffffffffff",
    "pcie-root-port,id=root-port,addr=0x5,chassis=1,slot=1",
    "edu,bus=root-port,dma_mask=0xffffffffffffffff",
];

const BUILD_LIMIT: Duration = Duration::from_secs(900);
const BOOT_LIMIT: Duration = Duration::from_secs(240);

pub(super) fn run(report: &mut Report) {
    if let Err(error) = install(&[qemu::NEED]) {
        return report.failed("packages", &error.to_string());
    }
    match qemu::describe() {
        Ok(version) => report.note(&version),
        Err(why) => return report.failed("qemu", &why),
    }
    let machine = match machine("") {
        Ok(machine) => machine,
        Err(failure) => {
            report.failed("build", &failure.why);
            return report.output(&failure.lines);
        }
    };
    judge(report, machine);
}

/// Boots the guest with a shell on this terminal instead of the cases.
pub fn shell() -> Result<(), String> {
    install(&[qemu::NEED]).map_err(|error| error.to_string())?;
    qemu::describe()?;
    let mut machine = machine("-- shell")
        .map_err(|failure| [failure.lines.join("\n"), failure.why].join("\n"))?;
    machine.args(["-serial", "mon:stdio"]);
    println!("Leave with `exit`, or with Ctrl-A X.");
    match machine.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("QEMU ended with {status}")),
        Err(error) => Err(format!("QEMU: {error}")),
    }
}

/// Linux's own words go to a file, and QEMU's to another; the agent has a serial line for itself, so that they
/// never mix.
fn judge(report: &mut Report, mut machine: Command) {
    let [console, words] = ["guest-console.log", "guest-qemu.log"].map(|it| scratch_dir().join(it));
    machine.arg("-serial").arg(format!("file:{}", console.display()));
    machine.args(["-serial", "stdio"]);
    let boot = boot(report, "", qemu::with_words_in(&machine, &words), BOOT_LIMIT);
    let Some(fault) = boot.fault(&[0]) else { return };
    report.failed("boot", &fault);
    report.output(&boot.lines);
    for (whose, file) in [("Linux", console), ("QEMU", words)] {
        report.note(&format!("{whose}'s last words ({}):", file.display()));
        let words = fs::read(file).unwrap_or_default();
        let words: Vec<_> = String::from_utf8_lossy(&words).lines().map(String::from).collect();
        report.output(&words);
    }
}

/// The guest could not be put together.
struct Failure {
    why: String,
    lines: Vec<String>,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { why: error.to_string(), lines: Vec::new() }
    }
}

/// Builds all that is in the guest. What it wants on its serial lines is for the caller to add.
fn machine(arguments: &str) -> Result<Command, Failure> {
    let kernel = kernel()?;
    let archive = initramfs(&busybox()?, &programs()?)?;
    let initramfs = scratch_dir().join("initramfs.cpio");
    fs::write(&initramfs, archive)?;
    let mut machine = qemu::machine("1G");
    machine.args(["-smp", "2"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    machine.arg("-append").arg(format!("{COMMAND_LINE} {arguments}"));
    for device in DEVICES {
        machine.args(["-device", device]);
    }
    Ok(machine)
}

fn programs() -> Result<Vec<PathBuf>, Failure> {
    let mut command = cargo();
    command.args(["build", "--release", "--bins", "--target", TARGET]);
    command.arg("--target-dir").arg(target_dir().join("guest"));
    command.arg("--message-format=json-render-diagnostics");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    match run_process(command, BUILD_LIMIT) {
        Ok(end) if end.status.success() => Ok(executables(&end.lines)),
        Ok(end) => Err(Failure { why: end.status.to_string(), lines: end.lines }),
        Err(error) => Err(Failure { why: error.to_string(), lines: error.lines().to_vec() }),
    }
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
