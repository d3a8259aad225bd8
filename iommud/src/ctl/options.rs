//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use libdma::PciAddress;
use libdma::protocol::path;

/// Shows what iommud does: the IOMMUs, the devices behind them, and what each may reach.
///
/// Exit codes: 0 all went well, 1 iommud refused, or would refuse a part of the machine, 2 wrong usage, or a file
/// or table that cannot be used, 3 iommud is not running, 4 with `faults --check`: there were some.
#[derive(Clone, Debug, Parser)]
#[command(name = "iommuctl", version)]
pub struct Options {
    /// Where iommud is; else $IOMMUD_SOCKET, else /run/iommud.sock. Nothing to `plan` and `capture`
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do; else it shows the units
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// What iommud says of itself.
    #[command(flatten)]
    Report(Report),
    /// What iommud would do with a machine, told from its tables alone
    ///
    /// With any of its files, nothing is read from the machine that this runs on; without, everything is, which
    /// takes root. Exit codes: 0 nothing is refused, 1 something is, 2 a file or a table
    /// cannot be used.
    Plan(PlanOptions),
    /// End the quarantine of a device, and of those that no IOMMU can tell from it; for root alone
    Release {
        /// The device, as `iommuctl devices` shows it: 0000:00:02.0
        #[arg(value_name = "ADDRESS")]
        device: PciAddress,
    },
    /// Write this machine's tables to files, for `plan` and for bug reports
    Capture(CaptureOptions),
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Report {
    /// The IOMMUs: place, abilities, state
    Units,
    /// The PCI functions: which unit covers each, who holds it
    Devices,
    /// Which PCI functions can only be confined together, and why
    Groups,
    /// The I/O address spaces: format, size, what is attached
    Domains,
    /// What is mapped where; for root alone
    Mappings,
    /// The latest accesses that were blocked
    Faults {
        /// Exit with 4 if any was
        #[arg(long)]
        check: bool,
    },
    /// What each device and user holds, what it may, and which limits have refused something
    Quotas,
    /// Who was given what: the handles, each below those that it was derived from
    Handles,
    /// What the daemon was told and what it made of it
    Config,
}

/// Whose tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct PlanOptions {
    /// An Intel machine's DMAR table, as in /sys/firmware/acpi/tables/DMAR
    #[arg(long, value_name = "FILE")]
    pub dmar: Option<PathBuf>,

    /// An AMD machine's IVRS table, as in /sys/firmware/acpi/tables/IVRS
    #[arg(long, value_name = "FILE", conflicts_with = "dmar")]
    pub ivrs: Option<PathBuf>,

    /// Its PCI functions, as root's `lspci -xxxx` prints them
    #[arg(long, value_name = "FILE")]
    pub pci: Option<PathBuf>,

    /// What the administrator decides; else, for this machine, /etc/iommud.ron if there is one
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CaptureOptions {
    /// The folder, which is made if there is none
    #[arg(value_name = "DIR", default_value = "iommud-capture")]
    pub folder: PathBuf,
}

impl PlanOptions {
    /// Whether they are about the machine that this runs on.
    pub fn this_machine(&self) -> bool {
        self.dmar.is_none() && self.ivrs.is_none() && self.pci.is_none()
    }
}

impl Report {
    /// The node where it is.
    pub fn node(self) -> &'static str {
        match self {
            Self::Units => path::UNITS,
            Self::Devices => path::DEVICES,
            Self::Groups => path::GROUPS,
            Self::Domains => path::DOMAINS,
            Self::Mappings => path::MAPPINGS,
            Self::Faults { .. } => path::FAULTS,
            Self::Quotas => path::QUOTAS,
            Self::Handles => path::HANDLES,
            Self::Config => path::CONFIG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_before_and_behind_the_report() {
        for line in [
            &["iommuctl", "--json", "faults", "--check"],
            &["iommuctl", "faults", "--check", "--json"],
        ] {
            let options = Options::try_parse_from(line).unwrap();
            assert!(options.json);
            let report = Report::Faults { check: true };
            assert_eq!(options.command, Some(Command::Report(report)));
        }
        assert_eq!(Options::try_parse_from(["iommuctl"]).unwrap().command, None);
    }

    #[test]
    fn a_plan_is_for_this_machine_unless_there_are_files() {
        let plan = |line: &[&str]| match Options::try_parse_from(line).unwrap().command {
            Some(Command::Plan(options)) => options,
            other => panic!("{other:?}"),
        };
        assert!(plan(&["iommuctl", "plan"]).this_machine());
        assert!(plan(&["iommuctl", "plan", "--policy", "x"]).this_machine());
        assert!(!plan(&["iommuctl", "plan", "--pci", "x"]).this_machine());
    }

    #[test]
    fn wrong_usage_is_told_and_has_its_exit_code() {
        for line in [
            &["iommuctl", "unit"][..],
            &["iommuctl", "units", "--check"],
            &["iommuctl", "--jsn"],
            &["iommuctl", "plan", "dmar.bin"],
            &["iommuctl", "release"],
            &["iommuctl", "release", "edu"],
        ] {
            assert_eq!(Options::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
