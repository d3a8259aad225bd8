//! Linux's side: a module of ours (`tests/linux-module`) in Debian's kernel, whose init loads it and turns the machine off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::column::Column;
use crate::bench::figures::Figures;
use crate::bench::{CPU, TIME};
use crate::cargo::{Failure, root, scratch_dir};
use crate::cpio::Archive;
use crate::debian::{Need, busybox, install, kernel, kernel_headers, on_path};
use crate::qemu::{self, Qemu};
use crate::suite::metal::EDU;
use agent::process::run as run_process;

/// What builds a module. The last is a library that the kernel's own tools are linked with.
const NEEDS: [Need; 3] = [
    Need { package: "make", present: || on_path("make") },
    Need { package: "gcc-12", present: || on_path("gcc-12") },
    Need {
        package: "libelf1",
        present: || Path::new("/usr/lib/x86_64-linux-gnu/libelf.so.1").exists(),
    },
];

/// A million mappings of Linux's are some hundred megabytes.
const MEMORY: &str = "2G";

/// Nothing is mitigated that no machine of this kind needs, and interrupts are not remapped, as on our side.
const COMMAND_LINE: &str = "console=ttyS0 nokaslr intremap=off no_timer_check panic=-1 \
    mitigations=off printk.time=0";

/// Linux tells its init words that it does not know as variables.
const INIT: &str = "#!/bin/sh\n\
    /bin/busybox insmod /bench.ko what=$bench\n\
    /bin/busybox poweroff -f\n";

/// What the module says when it has told everything.
const DONE: &str = "bench done";

const BUILD_LIMIT: Duration = Duration::from_secs(120);
/// Each takes about a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(900);

/// A boot, and the column that its figures are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub(super) column: Column,
    /// What the kernel and the module are told besides.
    words: &'static str,
}

/// All of them. Debian's kernel zeroes what it allocates, but the last time, when what a pool gives is not zeroed.
pub(super) const BOOTS: [Boot; 6] = [
    Boot { column: Column::LinuxVtd, words: "intel_iommu=on iommu.strict=1 bench=all" },
    Boot { column: Column::LinuxLazy, words: "intel_iommu=on iommu.strict=0 bench=api" },
    Boot { column: Column::LinuxPassThrough, words: "intel_iommu=on iommu=pt bench=api" },
    Boot { column: Column::LinuxAmdVi, words: "iommu.strict=1 bench=api" },
    Boot { column: Column::LinuxNone, words: "bench=api" },
    Boot {
        column: Column::LinuxVtd,
        words: "intel_iommu=on iommu.strict=1 init_on_alloc=0 bench=pool",
    },
];

/// The kernel, and the first root file system.
pub(super) struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Guest {
    /// Downloads what there is of Debian, and builds the module.
    pub(super) fn build() -> Result<Self, Failure> {
        install(&NEEDS)?;
        let (kernel, headers, busybox) = (kernel()?, kernel_headers()?, busybox()?);
        let module = module(&headers)?;
        let mut archive = Archive::new();
        ["bin", "dev"].iter().for_each(|directory| archive.directory(directory));
        archive.char_device("dev/console", 5, 1);
        archive.program("bin/busybox", &fs::read(busybox)?);
        archive.symlink("bin/sh", "busybox");
        archive.program("bench.ko", &fs::read(module)?);
        archive.program("init", INIT.as_bytes());
        let initramfs = scratch_dir().join("bench-initramfs.cpio");
        fs::write(&initramfs, archive.finish())?;
        Ok(Self { kernel, initramfs })
    }

    /// Boots it. What it measured, and what Linux calls itself.
    pub(super) fn measure(&self, qemu: &Qemu, boot: Boot) -> Result<(Figures, String), Failure> {
        let Boot { column, words } = boot;
        let mut machine = qemu::machine(MEMORY);
        machine.args(["-cpu", CPU, "-icount", TIME, "-serial", "stdio"]);
        machine.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        machine.arg("-append").arg(format!("{COMMAND_LINE} {words}"));
        for device in column.iommu().device(qemu).iter().map(String::as_str).chain([EDU]) {
            machine.args(["-device", device]);
        }
        let end = run_process(machine, BOOT_LIMIT);
        let lines = match &end {
            Ok(end) => &end.lines,
            Err(error) => error.lines(),
        };
        let fault = match &end {
            Ok(end) if end.status.success() => fault(lines).map(str::to_owned),
            Ok(end) => Some(format!("QEMU ended with {}", end.status)),
            Err(error) => Some(error.to_string()),
        };
        match fault {
            Some(why) => {
                Err(Failure { why: format!("{}: {why}", column.name()), lines: lines.to_vec() })
            }
            None => Ok((Figures::read(lines), version(lines).to_owned())),
        }
    }
}

/// What is wrong with what Linux said.
fn fault(lines: &[String]) -> Option<&str> {
    // What went wrong while it was counted is no figure.
    let warning = lines.iter().find(|line| line.contains("WARNING: ") || line.contains("BUG: "));
    match warning {
        Some(warning) => Some(warning),
        None if !lines.iter().any(|line| line.trim() == DONE) => {
            Some("the module did not come to its end")
        }
        None => None,
    }
}

/// Debian's version in what Linux calls itself, or all of that.
fn version(lines: &[String]) -> &str {
    let own = lines.iter().find_map(|line| line.strip_prefix("Linux version "));
    let own = own.unwrap_or_default().trim();
    own.rsplit_once("Debian ").map_or(own, |(_, version)| version)
}

/// Builds the module, in a folder of its own.
fn module(headers: &Path) -> Result<PathBuf, Failure> {
    let folder = scratch_dir().join("bench-module");
    fs::create_dir_all(&folder)?;
    for file in ["Makefile", "bench.c"] {
        fs::copy(root().join("tests/linux-module").join(file), folder.join(file))?;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(headers).arg(format!("M={}", folder.display())).arg("modules");
    let end = run_process(make, BUILD_LIMIT)?;
    match end.status.success() {
        true => Ok(folder.join("bench.ko")),
        false => Err(Failure { why: format!("the module: {}", end.status), lines: end.lines }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn a_boot_is_good_that_came_to_its_end_without_a_warning() {
        let good = ["bench nothing 3 3 3 3", "bench done\r", "reboot: Power down"];
        assert_eq!(fault(&lines(&good)), None);
        assert!(fault(&lines(&good[..1])).is_some());
        let warning = "WARNING: CPU: 0 PID: 1 at bench.c:210 many_live+0x1";
        assert_eq!(fault(&lines(&[warning, good[1]])), Some(warning));
    }

    #[test]
    fn the_version_is_debians() {
        let own = "Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian \
            12.2.0-14) 12.2.0) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)";
        assert_eq!(version(&lines(&["", own])), "6.1.192-2 (2026-11-16)");
        assert_eq!(version(&lines(&["Linux version 7.0 (me)"])), "7.0 (me)");
        assert_eq!(version(&[]), "");
    }
}
