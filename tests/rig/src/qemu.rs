//! QEMU: which one there is, and a machine that is judged by what it writes.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::debian::{Need, on_path};
use crate::process::run;

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

/// What a QEMU calls itself, in full.
pub fn describe() -> Result<String, String> {
    let mut command = Command::new(program());
    command.arg("--version");
    let shown = run(command, Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let line = shown.lines.first().cloned().unwrap_or_default();
    match Version::parse(&line) {
        Some(version) if version >= OLDEST => Ok(line),
        Some(version) => Err(format!("QEMU {version} is older than {OLDEST}")),
        None => Err(format!("not a version of QEMU: {line:?}")),
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
    fn versions_are_read_as_distributions_write_them() {
        let parse = |line| Version::parse(line).map(|version| version.to_string());
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        assert_eq!(parse(debian).as_deref(), Some("7.2"));
        assert_eq!(parse("QEMU emulator version 10.0.2").as_deref(), Some("10.0"));
        assert_eq!(parse("bash: qemu: not found"), None);
        assert!(Version { major: 10, minor: 0 } > OLDEST);
    }
}
