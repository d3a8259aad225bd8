//! One VT-d unit: its root and context tables, its caches, its faults.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use dma_types::{Iova, PhysAddr, SourceId};
use thiserror::Error;

use super::bring_up::{BringUp, Parts, Step};
use super::context::{AddressWidth, ContextEntry, DomainId, Translation};
use super::domain_ids::DomainIds;
use super::invalidation::Invalidation;
use super::invalidator::Invalidator;
use super::plan::Plan;
use super::probe::{UnitCapabilities, UnitRefusal};
use super::registers::{FaultStatus, GlobalCommand, GlobalStatus, RegisterFile};
use super::root::RootEntry;
use crate::completion::Ticket;
use crate::fault::Fault;
use crate::platform::{Platform, TableFrames};

/// How many bytes of registers are mapped to ask a unit how many there are.
const PROBE_BYTES: usize = 4096;

/// How long a unit may take over anything before it is given up. The specification sets no bound; real
/// units take microseconds, and one that drains a slow device some milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// A unit cannot be used from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// What it says of itself makes no sense.
    #[error(transparent)]
    Refused(#[from] UnitRefusal),
    /// Its registers cannot be reached.
    #[error("its registers cannot be mapped")]
    Unreachable,
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

/// Where a unit is in its life.
#[derive(Debug)]
enum Phase {
    Starting(BringUp),
    Running,
    Failed(UnitFailure),
}

/// A unit's state, for reports and for those who need it to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// It is not translating by our tables yet.
    Starting(Step),
    /// It translates.
    Running,
    /// It does not do what it is asked any more.
    Failed(UnitFailure),
}

/// One VT-d unit.
#[derive(Debug)]
pub struct Unit {
    base: PhysAddr,
    segment: u16,
    capabilities: UnitCapabilities,
    registers: RegisterFile,
    root: PhysAddr,
    domain_ids: DomainIds,
    invalidator: Invalidator,
    phase: Phase,
    found_translating: bool,
}

impl Unit {
    /// Finds out what the unit with registers at `base` can do, and makes its tables, in which everything
    /// is blocked. The unit itself is not touched before it is [polled](Self::poll).
    pub fn new(
        platform: &mut impl Platform,
        segment: u16,
        base: PhysAddr,
    ) -> Result<Self, Unusable> {
        let map = |platform: &mut _, bytes| {
            Platform_map(platform, base, bytes)
        };
        let window = map(platform, PROBE_BYTES)?;
        let capabilities = UnitCapabilities::read(platform, window)?;
        let bytes = capabilities.window_bytes();
        let window = if bytes > PROBE_BYTES { map(platform, bytes)? } else { window };
        let registers = RegisterFile::new(window, bytes, &capabilities)?;
        let root = platform.alloc_frame().ok_or(Unusable::OutOfFrames)?;
        let capability = capabilities.capability;
        let invalidator = Invalidator::new(
            platform,
            capabilities.extended.queued_invalidation(),
            capability.drain(),
            capability.needs_write_buffer_flush(),
        );
        let Some(invalidator) = invalidator else {
            platform.free_frame(root);
            return Err(Unusable::OutOfFrames);
        };
        let now = platform.now();
        let unit = Self {
            base,
            segment,
            capabilities,
            registers,
            root,
            domain_ids: DomainIds::new(capability.domain_count()),
            invalidator,
            phase: Phase::Starting(BringUp::new(now)),
            found_translating: false,
        };
        unit.flush(platform, root, 0..512);
        Ok(unit)
    }
}
