//! QEMU: which one there is, and a machine that is judged by what it writes.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::debian::{Need, on_path};
use agent::process::run;

/// The emulator, when the variable `QEMU` does not name another.
const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest version whose flags and bugs are known here: Debian 12's.
const OLDEST: Version = Version { major: 7, minor: 2 };

/// The package that brings QEMU.
pub const NEED: Need =
    Need { package: "qemu-system-x86", present: || program() != PROGRAM || on_path(PROGRAM) };

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl Version {
    /// Reads the first line of `--version`: `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
    fn parse(line: &str) -> Option<Self> {
        let numbers = line.split_once("version ")?.1.split(' ').next()?;
        let mut numbers = numbers.split('.').map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The QEMU there is.
pub struct Qemu {
    /// What it calls itself, in full.
    pub line: String,
    version: Version,
}

impl Qemu {
    /// Asks it.
    pub fn find() -> Result<Self, String> {
        let mut command = Command::new(program());
        command.arg("--version");
        let shown = run(command, Duration::from_secs(10)).map_err(|error| error.to_string())?;
        let line = shown.lines.first().cloned().unwrap_or_default();
        match Version::parse(&line) {
            Some(version) if version >= OLDEST => Ok(Self { line, version }),
            Some(version) => Err(format!("QEMU {version} is older than {OLDEST}")),
            None => Err(format!("not a version of QEMU: {line:?}")),
        }
    }
}

/// Which IOMMU a machine has. Interrupts are not remapped by any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// None.
    None,
    /// Intel's, for addresses of so many bits: 39 or 48.
    Vtd {
        /// Bits of an address.
        bits: u8,
        /// It says that it caches what is not there.
        caching_mode: bool,
    },
    /// AMD's.
    AmdVi,
}

impl Iommu {
    /// The device to give a QEMU of this version, before all devices that are below it.
    pub fn device(self, qemu: &Qemu) -> Option<String> {
        match self {
            Self::None => None,
            // Seen to work with these flags on 7.2, 10.0 and 11.1. By default the first has 39 bits alone.
            Self::Vtd { bits, caching_mode } => {
                let caching_mode = if caching_mode { ",caching-mode=on" } else { "" };
                Some(format!("intel-iommu,intremap=off,aw-bits={bits}{caching_mode}"))
            }
            Self::AmdVi => Some(format!("amd-iommu,intremap=off{}", amd_translates(qemu.version))),
        }
    }

    /// Whether this QEMU knows which device behind a bridge asks it. Up to version 10 its AMD-Vi takes the bus's
    /// number before the firmware has given it one.
    pub fn sees_past_bridges(self, qemu: &Qemu) -> bool {
        self != Self::AmdVi || qemu.version >= Version { major: 11, minor: 0 }
    }

    /// Whether this QEMU's unit tells what it blocked. Up to version 10 its AMD-Vi writes no events.
    pub fn tells_what_it_blocks(self, qemu: &Qemu) -> bool {
        self != Self::AmdVi || qemu.version >= Version { major: 11, minor: 0 }
    }
}

/// What makes AMD-Vi translate at all.
fn amd_translates(version: Version) -> &'static str {
    if version >= (Version { major: 10, minor: 2 }) {
        ",dma-remap=on"
    } else if version >= (Version { major: 10, minor: 0 }) {
        ",pt=off"
    } else {
        ""
    }
}

/// A q35 machine without a display, and with nothing on it but what is added. It ends rather than
/// boots again.
pub fn machine(memory: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["-machine", "q35", "-accel", "tcg", "-m", memory, "-no-reboot"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command
}

/// The same machine, with what QEMU itself has to say in a file: on the same stream it would come into the
/// middle of the guest's lines.
pub fn with_words_in(machine: &Command, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec 2>"$0" && exec "$@""#]).arg(file);
    shell.arg(machine.get_program()).args(machine.get_args());
    shell
}

fn program() -> OsString {
    std::env::var_os("QEMU").unwrap_or_else(|| PROGRAM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_own_words_are_kept_apart_from_its_guests() {
        let mut machine = Command::new("sh");
        machine.args(["-c", "echo of the guest; echo \"$0\" >&2; exit 3", "its 'own'"]);
        let file = std::env::temp_dir().join(format!("rig-words {}", std::process::id()));
        let end = run(with_words_in(&machine, &file), Duration::from_secs(5)).unwrap();
        assert_eq!((end.lines, end.status.code()), (vec!["of the guest".to_owned()], Some(3)));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "its 'own'\n");
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn flags_are_those_that_let_each_version_translate() {
        let device = |major, minor, iommu: Iommu| {
            let version = Version { major, minor };
            iommu.device(&Qemu { line: String::new(), version })
        };
        let amd = |major, minor| device(major, minor, Iommu::AmdVi).unwrap();
        assert_eq!(amd(7, 2), "amd-iommu,intremap=off");
        assert_eq!(amd(10, 0), "amd-iommu,intremap=off,pt=off");
        assert_eq!(amd(11, 1), "amd-iommu,intremap=off,dma-remap=on");
        let vtd = Iommu::Vtd { bits: 48, caching_mode: true };
        let flags = "intel-iommu,intremap=off,aw-bits=48,caching-mode=on";
        assert_eq!(device(7, 2, vtd).unwrap(), flags);
        assert_eq!(device(7, 2, Iommu::None), None);
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let parse = |line| Version::parse(line).map(|version| version.to_string());
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        assert_eq!(parse(debian).as_deref(), Some("7.2"));
        assert_eq!(parse("QEMU emulator version 10.0.2").as_deref(), Some("10.0"));
        assert_eq!(parse("bash: qemu: not found"), None);
        assert!(Version { major: 10, minor: 0 } > OLDEST);
    }
}
