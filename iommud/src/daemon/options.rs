//! The command line.

#[cfg(target_os = "linux")]
use std::env;
use std::path::PathBuf;

use clap::Parser;
#[cfg(target_os = "linux")]
use clap::ValueEnum;
#[cfg(target_os = "linux")]
use libdma::transport::socket::{DEFAULT_SOCKET, SOCKET_VARIABLE};

/// Gives every device an I/O address space of its own, and lets drivers map memory in it.
///
#[cfg_attr(
    target_os = "linux",
    doc = "On Linux it stays in the foreground, writes \"iommud: ready\" on standard error when it serves, and ends \
           at SIGTERM or SIGINT; it is for a guest in QEMU whose kernel leaves the IOMMU alone, and for --sim."
)]
#[cfg_attr(
    target_os = "redox",
    doc = "Init starts it; started by hand it goes into the background. It runs as two processes: one serves, and \
           the other starts it again when it dies."
)]
///
/// Exit codes: 0 it was told to end, or the policy is right, 1 it cannot run, 2 the machine has no
/// IOMMU and the policy does not allow that.
#[derive(Clone, Debug, Parser)]
#[command(name = "iommud", version)]
pub struct Options {
    /// What the administrator decides; else /etc/iommud.ron, if there is one
    #[cfg_attr(target_os = "linux", doc = "and this is no --sim")]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Tell whether this policy is right and what it says, and do nothing else
    #[arg(long, value_name = "FILE", exclusive = true)]
    pub check_policy: Option<PathBuf>,

    /// Where drivers connect; else $IOMMUD_SOCKET, else /run/iommud.sock
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Simulate a machine with an edu device. It confines nothing real. Whoever runs it is its
    /// root
    #[cfg(target_os = "linux")]
    #[arg(long)]
    pub sim: bool,

    /// With --sim: which kind of IOMMU
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "KIND", requires = "sim", default_value = "vtd")]
    pub unit: UnitKind,
}

/// Kinds of IOMMU.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnitKind {
    /// Intel VT-d
    Vtd,
    /// AMD-Vi
    Amdvi,
    /// None at all
    None,
}

impl Options {
    /// Where drivers connect.
    #[cfg(target_os = "linux")]
    pub fn socket(&self) -> PathBuf {
        let told = self.socket.clone().or_else(|| env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
        told.unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Whether the machine is a simulated one.
    #[cfg(target_os = "linux")]
    pub fn is_simulated(&self) -> bool {
        self.sim
    }

    /// Whether the machine is a simulated one: not here.
    #[cfg(target_os = "redox")]
    pub fn is_simulated(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_unit_is_for_the_simulator() {
        assert!(Options::try_parse_from(["iommud", "--unit", "vtd"]).is_err());
        let options = Options::try_parse_from(["iommud", "--sim", "--unit", "amdvi"]).unwrap();
        assert_eq!(options.unit, UnitKind::Amdvi);
        assert_eq!(Options::try_parse_from(["iommud"]).unwrap().unit, UnitKind::Vtd);
    }

    #[test]
    fn the_socket_is_where_the_command_line_says() {
        let options = Options::try_parse_from(["iommud", "--socket", "/tmp/x"]).unwrap();
        assert_eq!(options.socket(), PathBuf::from("/tmp/x"));
    }

    #[test]
    fn a_check_is_no_start() {
        let options = Options::try_parse_from(["iommud", "--check-policy", "x"]).unwrap();
        assert_eq!(options.check_policy, Some("x".into()));
        assert!(Options::try_parse_from(["iommud", "--sim", "--check-policy", "x"]).is_err());
    }
}
