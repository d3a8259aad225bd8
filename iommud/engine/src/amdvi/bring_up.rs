//! A unit's way from what firmware left to translation that denies by default (rule R1).
//!
//! The device table is complete before it begins: every requester is blocked, but for those with ranges that
//! firmware reserves, which reach these. From there the unit goes step by step, and never waits: each step is
//! begun, and looked at again when the unit is polled.
//!
//! A unit that is off takes no commands. So it is turned on first and then told to forget everything; until that
//! is confirmed it may still go by what it had cached, which is what firmware allowed.
//!
//! # When translation is on already
//!
//! A firmware or boot loader may hand the machine over translating. Translation then stays on while the device
//! table is changed beneath it, by one store, so that there is no moment in which everything passes; Linux
//! changes it so, too, when it takes over from a kernel that crashed. Only if more than the two rings is on that
//! changes how requests are translated, or the table is in segments, the unit must be turned off for a moment; but never
//! if it goes by the table already that it is to go by, which a predecessor left.

use core::sync::atomic::{Ordering, fence};

use super::device_table::DeviceTable;
use super::event_log::EventLog;
use super::invalidator::Invalidator;
use super::registers::{Control, ExclusionBase, ExclusionLimit, RegisterFile, Status};
use crate::completion::Ticket;
use crate::platform::{Instant, Platform};
use crate::unit::UnitFailure;

/// Where a unit is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing has been done.
    Begin,
    /// Waiting until the rings of firmware's are off.
    StopOldRings,
    /// Waiting until firmware's translation is off.
    StopOldTranslation,
    /// Waiting until translation and the command buffer are on.
    Start,
    /// Waiting until everything cached is gone.
    Invalidate(Ticket),
    /// Done.
    Finished,
}

impl Step {
    /// What the unit is asked for in this step, for reports.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::StopOldRings => "turn off the command buffer and the logs that firmware left",
            Self::StopOldTranslation => "turn off the translation that firmware left",
            Self::Start => "turn on translation and its command buffer",
            Self::Invalidate(_) => "invalidate its caches",
            Self::Finished => "finish",
        }
    }
}

/// A unit on its way.
#[derive(Debug)]
pub struct BringUp {
    step: Step,
    since: Instant,
    /// Whether translation was on when it was found.
    found_translating: bool,
    /// Whether the device table is the one that the unit goes by, as it was left by a predecessor.
    is_inherited: bool,
}

/// What the steps work on.
pub struct Parts<'a> {
    /// The unit's registers.
    pub registers: &'a RegisterFile,
    /// Its way of invalidating.
    pub invalidator: &'a mut Invalidator,
    /// Its event log.
    pub event_log: &'a mut EventLog,
    /// Its device table.
    pub table: &'a DeviceTable,
    /// How its control register is to be in the end.
    pub control: Control,
}

impl BringUp {
    /// At the beginning.
    pub fn new(now: Instant, is_inherited: bool) -> Self {
        Self { step: Step::Begin, since: now, found_translating: false, is_inherited }
    }

    /// Where the unit is.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Since when it has been there.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether translation was on when the unit was found.
    pub fn found_translating(&self) -> bool {
        self.found_translating
    }

    /// Goes as far as the unit lets it.
    ///
    /// # Errors
    ///
    /// [`UnitFailure`] if the unit does something that no unit does.
    pub fn advance(
        &mut self,
        parts: &mut Parts<'_>,
        platform: &mut impl Platform,
    ) -> Result<(), UnitFailure> {
        // Every step leads to a later one, so that this ends.
        while self.step != Step::Finished {
            let found = Found::read(parts.registers, platform)?;
            if !self.is_done(found, parts, platform)? {
                break;
            }
            self.step = self.begin_next(found, parts, platform);
            self.since = platform.now();
        }
        Ok(())
    }

    /// Whether the unit has done what the step waits for.
    fn is_done(
        &mut self,
        Found { status, control }: Found,
        parts: &mut Parts<'_>,
        platform: &mut impl Platform,
    ) -> Result<bool, UnitFailure> {
        Ok(match self.step {
            Step::Begin => {
                self.found_translating = control.translation();
                true
            }
            Step::StopOldRings => !status.anything_runs(),
            Step::StopOldTranslation => !control.translation(),
            Step::Start => control.translation() && status.command_buffer_runs(),
            Step::Invalidate(ticket) => {
                parts.invalidator.poll(platform, parts.registers)?;
                parts.invalidator.confirmed() >= ticket
            }
            Step::Finished => false,
        })
    }

    /// Begins the step after this one, leaving out what the unit does not need.
    fn begin_next(
        &mut self,
        Found { status, control: found }: Found,
        parts: &mut Parts<'_>,
        platform: &mut impl Platform,
    ) -> Step {
        let registers = parts.registers;
        // A guard is a step's need; the first that is needed, in this order, is next.
        let after = |step: Step| order(self.step) < order(step);
        // A ring that has stopped by itself is still turned on, and would not start again as ours.
        let rings = status.anything_runs() || found != found.without_rings();
        if after(Step::StopOldRings) && rings {
            registers.write(platform, found.without_rings());
            return Step::StopOldRings;
        }
        let other_kind = !self.is_inherited
            && (found.has_more_than_rings() || parts.control.segments_order() != 0);
        if after(Step::StopOldTranslation) && found.translation() && other_kind {
            registers.write(platform, Control::new());
            return Step::StopOldTranslation;
        }
        if after(Step::Start) {
            install(parts, platform, found.translation());
            return Step::Start;
        }
        if after(Step::Invalidate(Ticket(0))) {
            return Step::Invalidate(parts.invalidator.submit_everything(platform, registers));
        }
        Step::Finished
    }
}

/// What a unit says of itself.
#[derive(Clone, Copy)]
struct Found {
    status: Status,
    control: Control,
}

impl Found {
    /// Asks it. What is written back of this is never what a unit reads that is gone (rule R5).
    fn read(registers: &RegisterFile, platform: &mut impl Platform) -> Result<Self, UnitFailure> {
        let (status, control) = (registers.read(platform), registers.read(platform));
        if status == Status::GONE || control == Control::GONE {
            return Err(UnitFailure::Vanished);
        }
        Ok(Self { status, control })
    }
}

/// The place of a step on the way.
const fn order(step: Step) -> u8 {
    match step {
        Step::Begin => 0,
        Step::StopOldRings => 1,
        Step::StopOldTranslation => 2,
        Step::Start => 3,
        Step::Invalidate(_) => 4,
        Step::Finished => 5,
    }
}

/// Gives a unit whose rings are off ours and the device table, and turns everything on.
///
/// The exclusion range goes first: it lets everything through that lies in it. The control register is
/// written twice, so that whatever it says of the rings and of the bus holds when translation begins.
fn install(parts: &mut Parts<'_>, platform: &mut impl Platform, translating: bool) {
    let registers = parts.registers;
    // The tables must be seen before the unit is told of them.
    fence(Ordering::SeqCst);
    registers.write(platform, ExclusionBase::new());
    registers.write(platform, ExclusionLimit::new());
    registers.write(platform, Status::clearing_all());
    parts.invalidator.install(platform, registers);
    parts.event_log.install(platform, registers, parts.control);
    parts.table.announce(platform, registers);
    registers.write(platform, parts.control.with_translation(translating));
    registers.write(platform, parts.control);
}

#[cfg(test)]
mod tests;
