//! The command line.

use std::env;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use libdma::transport::socket::{DEFAULT_SOCKET, SOCKET_VARIABLE};

/// Gives every device an I/O address space of its own, and lets drivers map memory in it.
///
/// It stays in the foreground, writes "iommud: ready" on standard error when it serves, and ends at SIGTERM
/// or SIGINT. On Linux it is for a guest in QEMU whose kernel leaves the IOMMU alone, and for --sim.
///
/// Exit codes: 0 it was told to end, 1 it cannot run, 2 the machine has no IOMMU.
#[derive(Clone, Debug, Parser)]
#[command(name = "iommud", version)]
pub struct Options {
    /// Where drivers connect; else $IOMMUD_SOCKET, else /run/iommud.sock
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Simulate a machine with an IOMMU and an edu device. It confines nothing real. Whoever runs it is its
    /// root
    #[arg(long)]
    pub sim: bool,

    /// With --sim: which kind of IOMMU
    #[arg(long, value_name = "KIND", requires = "sim", default_value = "vtd")]
    pub unit: UnitKind,
}

/// Kinds of IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnitKind {
    /// Intel VT-d
    Vtd,
    /// AMD-Vi: not yet
    Amdvi,
}

impl Options {
    /// Where drivers connect.
    pub fn socket(&self) -> PathBuf {
        let told = self.socket.clone().or_else(|| env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
        told.unwrap_or_else(|| DEFAULT_SOCKET.into())
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
}
