//! A unit's way from what firmware left to translation that denies by default (rule R1).
//!
//! The tables are complete before it begins: every function is blocked, but for those with ranges that
//! firmware reserves, which reach these. From there the unit goes step by step, one command at a time
//! (11.4.4.1), and never waits: each step is begun, and looked at again when the unit is polled.
//!
//! # When translation is on already
//!
//! A firmware or boot loader may hand the machine over translating. If it used legacy tables, translation
//! stays on while the root table is changed beneath it (6.6 allows that), so that there is no moment in
//! which everything passes. Between tables of another mode and ours the unit must be turned off for a
//! moment (11.4.5): then only what the firmware's own protected memory ranges cover is protected, which
//! are not turned off before translation is on.

use core::time::Duration;

use dma_types::PhysAddr;

use super::fault_log::{self, Recorded};
use super::invalidation::Invalidation;
use super::invalidator::Invalidator;
use super::registers::{
    ContextCommand, FaultStatus, GlobalCommand, GlobalStatus, ProtectedMemory, QueueHead,
    QueueTail, RegisterFile, RootTableAddress, TranslationMode,
};
use crate::completion::Ticket;
use crate::platform::{Instant, Platform};
use crate::unit::{FaultSource, UnitFailure};

/// How long a queue of firmware's is given to empty itself. What it still holds then is about tables that go
/// out of use with it.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);

/// How long a unit that was in use is given for the command that it may have been given last. Most commands are told to be under
/// way by nothing. Units take some microseconds for one.
const COMMAND_PATIENCE: Duration = Duration::from_micros(100);

/// Where a unit is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing has been done. Waiting until the unit is done with what whoever had it before has asked it for last: a command
    /// is not to be given while another is under way (10.4.4), and that may be somebody who died in the midst of it.
    Begin,
    /// Waiting until what was to be forgotten by the registers is: nothing else may be asked for by them before (10.4.7, 10.4.8).
    DrainOldRegisters,
    /// Waiting until a queue of firmware's is empty, so that it can be turned off.
    DrainOldQueue,
    /// Waiting until a queue of firmware's is off.
    StopOldQueue,
    /// Waiting until tables of another mode are out of use.
    StopOldTranslation,
    /// Waiting until the queue is on.
    StartQueue,
    /// Waiting until the write buffers are flushed, so that the unit sees the tables.
    FlushWriteBuffer,
    /// Waiting until the unit has taken the root table.
    SetRootTable,
    /// Waiting until everything cached is gone.
    Invalidate(Ticket),
    /// Waiting until translation is on.
    StartTranslation,
    /// Waiting until the protected memory ranges are open: translation protects more.
    OpenProtectedMemory,
    /// Done.
    Finished,
}

impl Step {
    /// What the unit is asked for in this step, for reports.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Begin => "be done with its last command",
            Self::DrainOldRegisters => "be done with what it is forgetting",
            Self::DrainOldQueue => "empty the queue that firmware left",
            Self::StopOldQueue => "turn off the queue that firmware left",
            Self::StopOldTranslation => "turn off the translation that firmware left",
            Self::StartQueue => "turn on its invalidation queue",
            Self::FlushWriteBuffer => "flush its write buffers",
            Self::SetRootTable => "take its root table",
            Self::Invalidate(_) => "invalidate its caches",
            Self::StartTranslation => "turn on translation",
            Self::OpenProtectedMemory => "open the protected memory ranges",
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
    fault_source: FaultSource,
    recorded: Recorded,
    /// What is on: what was at first, and what we have turned on and off since. The unit is not asked again, for what it
    /// makes up is not to turn anything on, or translation off (rules R1 and R5).
    command: GlobalCommand,
}

/// What the steps work on.
pub struct Parts<'a> {
    /// The unit's registers.
    pub registers: &'a RegisterFile,
    /// Its way of invalidating.
    pub invalidator: &'a mut Invalidator,
    /// Its root table.
    pub root: PhysAddr,
    /// CAP.RWBF.
    pub needs_write_buffer_flush: bool,
    /// CAP.PLMR or CAP.PHMR.
    pub has_protected_memory: bool,
}

impl BringUp {
    /// At the beginning. What it has recorded already is for whoever goes on with its tables.
    pub fn new(now: Instant, recorded: Recorded) -> Self {
        let (step, found_translating) = (Step::Begin, false);
        let (fault_source, command) = (FaultSource::new(false), GlobalCommand::new());
        Self { step, since: now, found_translating, fault_source, recorded, command }
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

    /// How it is learnt that the unit has recorded a fault.
    pub fn fault_source(&self) -> FaultSource {
        self.fault_source
    }

    /// Whether the unit was left alone for long enough, if anybody had it before.
    fn was_quiet(&self, platform: &impl Platform, status: GlobalStatus) -> bool {
        let was_used =
            platform.inherited() || GlobalCommand::keeping(status) != GlobalCommand::new();
        !was_used || platform.now().since(self.since) >= COMMAND_PATIENCE
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
            // Read once a step: what is judged here is what the next step keeps.
            let status: GlobalStatus = parts.registers.read(platform);
            if status.into_bits() == u32::MAX {
                return Err(UnitFailure::Vanished);
            }
            if !self.is_done(parts, platform, status)? {
                break;
            }
            self.step = self.begin_next(parts, platform);
            self.since = platform.now();
        }
        Ok(())
    }

    /// Whether the unit has done what the step waits for.
    fn is_done(
        &mut self,
        parts: &mut Parts<'_>,
        platform: &mut impl Platform,
        status: GlobalStatus,
    ) -> Result<bool, UnitFailure> {
        Ok(match self.step {
            Step::Begin => {
                if is_at_a_command(status) || !self.was_quiet(platform, status) {
                    return Ok(false);
                }
                self.found_translating = status.translation();
                self.command = GlobalCommand::keeping(status);
                true
            }
            Step::DrainOldRegisters => !is_forgetting(parts, platform),
            Step::DrainOldQueue => {
                platform.now().since(self.since) > DRAIN_PATIENCE
                    || old_queue_is_empty(parts, platform)
            }
            Step::StopOldQueue => !status.queued_invalidation(),
            Step::StopOldTranslation => !status.translation(),
            Step::StartQueue => status.queued_invalidation(),
            Step::FlushWriteBuffer => !status.flushing_write_buffer(),
            Step::SetRootTable => status.root_table_set(),
            Step::Invalidate(ticket) => {
                parts.invalidator.poll(platform, parts.registers)?;
                parts.invalidator.confirmed() >= ticket
            }
            Step::StartTranslation => status.translation(),
            Step::OpenProtectedMemory => {
                !parts.registers.read::<ProtectedMemory>(platform).enabled()
            }
            Step::Finished => false,
        })
    }

    /// Begins the step after this one, leaving out what the unit does not need.
    fn begin_next(&mut self, parts: &mut Parts<'_>, platform: &mut impl Platform) -> Step {
        let registers = parts.registers;
        let command = self.command;
        // A guard is a step's need; the first that is needed, in this order, is next.
        let after = |step: Step| order(self.step) < order(step);
        if after(Step::DrainOldRegisters) && is_forgetting(parts, platform) {
            return Step::DrainOldRegisters;
        }
        if after(Step::DrainOldQueue) && command.queued_invalidation() {
            return Step::DrainOldQueue;
        }
        if after(Step::StopOldQueue) && command.queued_invalidation() {
            self.command = command.with_queued_invalidation(false);
            registers.write(platform, self.command);
            return Step::StopOldQueue;
        }
        if after(Step::StopOldTranslation) && command.translation() {
            let old: RootTableAddress = registers.read(platform);
            if old.mode() != TranslationMode::Legacy {
                self.command = command.with_translation(false);
                registers.write(platform, self.command);
                return Step::StopOldTranslation;
            }
        }
        if after(Step::StartQueue) {
            let (queue, message) = (parts.invalidator.queue_address(), platform.fault_message());
            let (has_queue, recorded) = (queue.is_some(), self.recorded);
            self.fault_source =
                fault_log::take_over(registers, platform, has_queue, message, recorded);
            if let Some(address) = queue {
                registers.write(platform, QueueTail::new());
                registers.write(platform, address);
                self.command = command.with_queued_invalidation(true);
                registers.write(platform, self.command);
                return Step::StartQueue;
            }
        }
        if after(Step::FlushWriteBuffer) && parts.needs_write_buffer_flush {
            registers.write(platform, command.with_flush_write_buffer(true));
            return Step::FlushWriteBuffer;
        }
        if after(Step::SetRootTable) {
            registers.write(platform, RootTableAddress::new().with_table(parts.root));
            registers.write(platform, command.with_set_root_table(true));
            return Step::SetRootTable;
        }
        if after(Step::Invalidate(Ticket(0))) {
            // The order is the specification's: contexts first, for what is cached of translations is
            // found by them (6.6).
            let all = [Invalidation::ContextGlobal, Invalidation::IotlbGlobal];
            parts.invalidator.keep(command);
            return Step::Invalidate(parts.invalidator.submit(platform, registers, all));
        }
        if after(Step::StartTranslation) && !command.translation() {
            self.command = command.with_translation(true);
            parts.invalidator.keep(self.command);
            registers.write(platform, self.command);
            return Step::StartTranslation;
        }
        if after(Step::OpenProtectedMemory) && parts.has_protected_memory {
            let protected: ProtectedMemory = registers.read(platform);
            if protected.enabled() || protected.enable() {
                registers.write(platform, protected.with_enable(false));
                return Step::OpenProtectedMemory;
            }
        }
        Step::Finished
    }
}

/// The place of a step on the way.
const fn order(step: Step) -> u8 {
    match step {
        Step::Begin => 0,
        Step::DrainOldRegisters => 1,
        Step::DrainOldQueue => 2,
        Step::StopOldQueue => 3,
        Step::StopOldTranslation => 4,
        Step::StartQueue => 5,
        Step::FlushWriteBuffer => 6,
        Step::SetRootTable => 7,
        Step::Invalidate(_) => 8,
        Step::StartTranslation => 9,
        Step::OpenProtectedMemory => 10,
        Step::Finished => 11,
    }
}

/// Whether the unit says that a command is under way. It translates by a root table always, so that without one it is just
/// being told of another.
fn is_at_a_command(status: GlobalStatus) -> bool {
    status.flushing_write_buffer() || status.translation() && !status.root_table_set()
}

/// Whether the unit is still at what it was asked by the registers to forget.
fn is_forgetting(parts: &Parts<'_>, platform: &mut impl Platform) -> bool {
    let context: ContextCommand = parts.registers.read(platform);
    context.invalidate() || parts.registers.read_iotlb(platform).invalidate()
}

/// Whether the unit has read all of the queue that firmware left; a queue that stopped at an error never
/// will, and is turned off as it is.
fn old_queue_is_empty(parts: &Parts<'_>, platform: &mut impl Platform) -> bool {
    let head: QueueHead = parts.registers.read(platform);
    let tail: QueueTail = parts.registers.read(platform);
    let faults: FaultStatus = parts.registers.read(platform);
    head.descriptor() == tail.descriptor() || faults.queue_error() || faults.time_out()
}
