//! What is odd about the machine.

use alloc::string::{String, ToString};

use dma_types::PciAddress;
use thiserror::Error;

use super::plan::Finding;
use crate::error::EngineError;

/// Something odd about the machine that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Remark {
    /// Something was found when it was planned what to do.
    #[error("{0}")]
    Found(Finding),
    /// A port does not do what it is told, so that what is behind it counts as one group.
    #[error("{0} does not turn on the Access Control Services that it offers")]
    NoAccessControl(PciAddress),
    /// What a device should reach while nobody holds it, such as the memory that firmware reserves for it, could
    /// not be mapped, so that it reaches nothing.
    #[error("what {address} should reach while nobody holds it could not be mapped: {error}")]
    HomeNotMapped {
        /// The first device of the group.
        address: PciAddress,
        /// Why.
        error: EngineError,
    },
    /// The policy would leave a device unconfined, and does not, for its group is confined as one.
    #[error(
        "{address} stays confined whatever the policy says of it, for {with} is of its group and is to be confined"
    )]
    StaysConfined {
        /// The device.
        address: PciAddress,
        /// One that the policy does not leave unconfined.
        with: PciAddress,
    },
    /// Less memory could be set aside than the policy says.
    #[error(
        "of the {wanted} bytes that the policy sets aside for {}, {bytes} could be had",
        whom(.owner)
    )]
    ReserveShort {
        /// The device that it is for; `None`: all.
        owner: Option<PciAddress>,
        /// How much it should have been.
        wanted: u64,
        /// How much it is.
        bytes: u64,
    },
    /// A function that has appeared could not be attached where its group is.
    #[error("{address} has appeared and reaches nothing: {error}")]
    NewcomerNotAttached {
        /// The function.
        address: PciAddress,
        /// Why.
        error: EngineError,
    },
}

/// For whom memory is set aside.
fn whom(owner: &Option<PciAddress>) -> String {
    owner.map_or_else(|| "all devices".into(), |device| device.to_string())
}
