//! Where a unit is in its life, and how that ends.

use alloc::string::String;
use core::time::Duration;

use thiserror::Error;

use crate::acpi::UnitFault;
use crate::vtd::probe::UnitRefusal;

/// How long a unit may take over anything before it is given up. The specifications set no bound; real
/// units take microseconds, and one that drains a slow device some milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// A unit's state, for reports and for those who need it to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// It is not translating by our tables yet; it is being asked to do this.
    Starting(&'static str),
    /// It translates.
    Running,
    /// It does not do what it is asked any more.
    Failed(UnitFailure),
}

/// A unit cannot be used from its start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// What it says of itself makes no sense.
    #[error(transparent)]
    Refused(#[from] UnitRefusal),
    /// What it says of itself makes no sense, being AMD's.
    #[error(transparent)]
    RefusedAmdvi(#[from] crate::amdvi::probe::UnitRefusal),
    /// What firmware says of it makes no sense.
    #[error(transparent)]
    Firmware(#[from] UnitFault),
    /// The administrator said so, for this reason.
    #[error("the policy leaves it alone: {0}")]
    Ignored(String),
    /// Its registers cannot be reached.
    #[error("its registers cannot be mapped")]
    Unreachable,
    /// It does not translate by the tables that a predecessor gave it.
    #[error("it does not translate by the tables that iommud gave it before it was started anew")]
    OtherTables,
    /// There is no memory for its tables.
    #[error("there is no memory for its tables")]
    OutOfFrames,
}

/// A unit worked, and does not any more. Its devices reach what they reached, or nothing; nothing that it
/// could still hold is ever used again (rule R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitFailure {
    /// It took too long over a step of its start.
    #[error("it did not {what} in time")]
    StartTimedOut {
        /// What it was asked for.
        what: &'static str,
    },
    /// It took too long over an invalidation.
    #[error("it did not confirm an invalidation in time")]
    InvalidationTimedOut,
    /// Its queue stopped at an error.
    #[error("its invalidation queue stopped at an error")]
    QueueStopped,
    /// It said that it did not invalidate anything.
    #[error("it refused an invalidation")]
    InvalidationRefused,
    /// Its registers read all ones: it is gone, or has no power.
    #[error("its registers read all ones: it is gone or has no power")]
    Vanished,
}
