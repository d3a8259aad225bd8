//! Why the daemon ended.

use std::io;

use iommu_engine::error::StartError;
use libdma::protocol::path::SCHEME;
use libredox::error::Error as SystemError;
use thiserror::Error as ThisError;

use crate::daemon::hand_over::NotByKeeper;
use crate::platform::redox::OpenError;
use crate::policy::PolicyError;

/// Why the daemon ended.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There is a policy, and it is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Another one serves.
    #[error("another iommud serves /scheme/{SCHEME} already")]
    AlreadyServed,
    /// The platform cannot be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine could not start.
    #[error("{0}")]
    Start(StartError),
    /// The keeper has ended, and not said why.
    #[error("ended in the background before it was ready")]
    NoAnswer,
    /// What a variable of the environment names is no pipe.
    #[error("{0} does not name a pipe")]
    NoPipe(&'static str),
    /// It was started as the keeper starts it, by somebody else.
    #[error(transparent)]
    NotByKeeper(#[from] NotByKeeper),
    /// The process that serves cannot be started.
    #[error("cannot start the process that serves: {0}")]
    Spawn(#[from] io::Error),
    /// The kernel gives no memory object.
    #[error("cannot make a memory object: {0}")]
    Memory(SystemError),
    /// The kernel refused something without which nothing goes on.
    #[error("cannot serve: {0}")]
    Serve(#[from] SystemError),
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
