//! Why there is no report.

use std::io;
use std::path::PathBuf;

use iommu_engine::platform::PlatformError;
use thiserror::Error as ThisError;

use super::plan::DumpError;
use crate::policy::PolicyError;

/// How iommud is started, for those who have none. Only Linux has the simulator.
const HOW_TO_START: &str = if cfg!(target_os = "redox") {
    "`iommud` as root"
} else {
    "`iommud` as root, or without hardware with `iommud --sim`"
};

/// Why there is no report, and what to do.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Nobody serves.
    #[error("iommud is not running at {place}: start it with {HOW_TO_START}")]
    NotRunning {
        /// Where it was expected.
        place: String,
    },
    /// Somebody may serve, but not us.
    #[error("cannot connect to {place}: {error}")]
    CannotConnect {
        /// Where it was expected.
        place: String,
        /// Why not.
        error: libdma::Error,
    },
    /// The daemon refused.
    #[error("{path}: {error}{}", advice(error))]
    Refused {
        /// What was asked for.
        path: String,
        /// Why not.
        error: libdma::Error,
    },
    /// The daemon's JSON is none.
    #[error("{path}: cannot understand the answer: are iommud and iommuctl of one version?")]
    Nonsense {
        /// What was asked for.
        path: String,
    },
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file is too large to be what it is said to be.
    #[error("{}: this has more than {most} bytes, which is more than any machine has of it", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The most that it may have.
        most: u64,
    },
    /// A file has no PCI functions, or something else.
    #[error("{}:{error}", file.display())]
    Functions {
        /// The file.
        file: PathBuf,
        /// Where in it, and why.
        error: DumpError,
    },
    /// There is a policy, and it is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// This machine does not tell what it is.
    #[error("cannot read this machine's {what} ({error}): run this as root, or name files")]
    Live {
        /// What it does not tell.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: {error}", file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A capture is files, a release is done, and what is said of either is for people.
    #[error("only reports and plans have JSON: leave out --json")]
    NoJson,
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}

/// What to do about a refusal.
fn advice(error: &libdma::Error) -> &'static str {
    match error {
        libdma::Error::NotPermitted => " (only root may see this)",
        libdma::Error::NoSuchPath => " (are iommud and iommuctl of one version?)",
        _ => "",
    }
}

impl Error {
    /// The firmware's tables cannot be read.
    pub(super) fn tables(error: PlatformError) -> Self {
        Self::Live { what: "firmware tables", error: io::Error::other(error) }
    }

    /// The PCI functions cannot be read.
    pub(super) fn functions(error: io::Error) -> Self {
        Self::Live { what: "PCI functions", error }
    }

    /// The exit code that stands for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => 3,
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Functions { .. } => 2,
            Self::Policy(_) | Self::Live { .. } | Self::Unwritable { .. } | Self::NoJson => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_and_have_their_exit_codes() {
        let gone = Error::NotRunning { place: "/run/iommud.sock".into() };
        assert!(gone.to_string().contains("start it with `iommud`"));
        assert_eq!(gone.exit_code(), 3);
        let path = "mappings".to_string();
        let refused = Error::Refused { path, error: libdma::Error::NotPermitted };
        assert!(refused.to_string().ends_with("(only root may see this)"), "{refused}");
        assert_eq!(refused.exit_code(), 1);
    }
}
