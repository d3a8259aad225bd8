//! Why the daemon ended.

use std::io;

use iommu_engine::error::StartError;
use thiserror::Error as ThisError;

use crate::daemon::hand_over::NotByKeeper;
use crate::platform::linux::OpenError;
use crate::policy::PolicyError;
use crate::transport::socket::ListenError;

/// Why the daemon ended.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There is a policy, and it is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Clients could not connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The platform cannot be had.
    #[error("{0}; to try it without hardware: iommud --sim")]
    Open(#[from] OpenError),
    /// There would be no memory for the simulated machine.
    #[error("cannot simulate a machine: {0}")]
    Simulator(io::Error),
    /// The engine could not start.
    #[error("{0}")]
    Start(StartError),
    /// It was started as the keeper starts it, by somebody else.
    #[error(transparent)]
    NotByKeeper(#[from] NotByKeeper),
    /// The process that serves cannot be started.
    #[error("cannot start the process that serves: {0}")]
    Spawn(io::Error),
    /// The operating system refused something without which nothing goes on.
    #[error("cannot serve: {0}")]
    Serve(#[from] io::Error),
}

impl Error {
    /// The exit code that stands for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(StartError::NoIommu) => 2,
            _ => 1,
        }
    }
}
