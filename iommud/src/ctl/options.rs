//! The command line.

#[cfg(target_os = "linux")]
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use libdma::protocol::path;

/// Shows what iommud does: the IOMMUs, the devices behind them, and what each may reach.
///
/// Exit codes: 0 all went well, 1 iommud refused, 2 wrong usage, 3 iommud is not running, 4 with
/// `faults --check`: there were some.
#[derive(Clone, Debug, Parser)]
#[command(name = "iommuctl", version)]
pub struct Options {
    /// Where iommud is; else $IOMMUD_SOCKET, else /run/iommud.sock
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// What to show; else the units
    #[command(subcommand)]
    pub report: Option<Report>,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Report {
    /// The IOMMUs: place, abilities, state
    Units,
    /// The PCI functions: which unit covers each, who holds it
    Devices,
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
    /// What the daemon was told and what it made of it
    Config,
}

impl Report {
    /// The node where it is.
    pub fn node(self) -> &'static str {
        match self {
            Self::Units => path::UNITS,
            Self::Devices => path::DEVICES,
            Self::Domains => path::DOMAINS,
            Self::Mappings => path::MAPPINGS,
            Self::Faults { .. } => path::FAULTS,
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
            assert_eq!(options.report, Some(Report::Faults { check: true }));
        }
        assert_eq!(Options::try_parse_from(["iommuctl"]).unwrap().report, None);
    }

    #[test]
    fn wrong_usage_is_told_and_has_its_exit_code() {
        for line in
            [&["iommuctl", "unit"][..], &["iommuctl", "units", "--check"], &["iommuctl", "--jsn"]]
        {
            assert_eq!(Options::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
