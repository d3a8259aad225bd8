//! The unit: its register file, and what tests may look at.

use std::collections::HashMap;

use super::cache::Caches;
use super::config::{Timing, VtdConfig};
use super::fault::FaultLog;
use super::protected::Protected;
use super::queue::Queue;
use super::registers::{
    ContextCommand, FaultStatus, Global, IotlbCommand, QueueAddress, RootTableAddress, offset,
};
use crate::dram::Bus;
use crate::machine::lies::Confirms;
use crate::pace::Health;
use crate::request::{Message, half, with_half};

/// VER_REG: architecture version 1.0.
const VERSION: u32 = 0x10;

/// The bytes of a fault recording register.
const FAULT_RECORD: u64 = 16;

/// Something that software must not do, and did. A correct engine leaves the list empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// GCMD was written while the last command was not done (10.4.4).
    CommandWhileBusy,
    /// GCMD was written with more than one change (10.4.4).
    SeveralCommands,
    /// Translation was turned on with no root table set (10.4.4, SRTP).
    RootTableNotSet,
    /// Translation was turned on after a root table was set without invalidating the context cache and
    /// then the IOTLB, both globally (6.6).
    RootTableNotInvalidated,
    /// A root table was set for a mode that the unit has not (10.4.6, TTM).
    RootTableMode,
    /// CCMD or IOTLB was written while it was busy (10.4.7, 10.4.8).
    InvalidationWhileBusy,
    /// An IOTLB invalidation was asked for while one of the context cache was pending (10.4.8).
    IotlbBeforeContext,
    /// CCMD or IOTLB was used while the queue was on (6.5.1). It is never done.
    RegisterInvalidationWithQueue,
    /// The queue was turned on with a tail that is not zero (6.5.2).
    QueueTailNotZero,
    /// IQA was written while the queue was on (10.4.23).
    QueueAddressWhileOn,
    /// A wait descriptor's status word is no memory.
    StatusAddress,
    /// Domain-id 0 was used on a unit that tags what is not present with it (CAP.CM, 6.1).
    ReservedDomain,
}

/// What a unit has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Table walks.
    pub walks: u64,
    /// Words of tables read, root and context entries included.
    pub table_reads: u64,
    /// Requests served from the context cache.
    pub context_hits: u64,
    /// Requests served from the IOTLB.
    pub iotlb_hits: u64,
    /// Walks that started at a cached table.
    pub table_hits: u64,
    /// Requests that faulted, whether recorded or not.
    pub faults: u64,
    /// Context-cache invalidations done.
    pub context_invalidations: u64,
    /// IOTLB invalidations done.
    pub iotlb_invalidations: u64,
    /// Wait descriptors done.
    pub waits: u64,
}

/// A VT-d unit. The [`Machine`](crate::Machine) gives it registers accesses, requests and time.
#[derive(Debug)]
pub struct VtdUnit {
    pub(super) config: VtdConfig,
    pub(super) now: u64,
    pub(super) status: Global,
    pub(super) command: Option<(Global, u64)>,
    pub(super) root_register: u64,
    pub(super) root: RootTableAddress,
    /// Whether context cache and IOTLB were invalidated globally, in this order, since the root table
    /// was set.
    pub(super) invalidated: (bool, bool),
    pub(super) context_command: ContextCommand,
    pub(super) context_since: u64,
    pub(super) iotlb_command: IotlbCommand,
    pub(super) iotlb_since: u64,
    pub(super) invalidate_address: u64,
    pub(super) queue: Queue,
    pub(super) faults: FaultLog,
    pub(super) protected: Protected,
    pub(super) caches: Caches,
    pub(super) write_buffer: HashMap<u64, u64>,
    pub(super) counters: Counters,
    pub(super) messages: Vec<Message>,
    violations: Vec<Violation>,
    pub(super) confirms: Confirms,
}

impl VtdUnit {
    /// A unit after reset: nothing is translated, all caches are empty.
    pub fn new(config: VtdConfig) -> Self {
        Self {
            faults: FaultLog::new(config.fault_records),
            protected: Protected::new(config.protected_low, config.protected_high),
            config,
            now: 0,
            status: Global::new(),
            command: None,
            root_register: 0,
            root: RootTableAddress::new(),
            invalidated: (false, false),
            context_command: ContextCommand::new(),
            context_since: 0,
            iotlb_command: IotlbCommand::new(),
            iotlb_since: 0,
            invalidate_address: 0,
            queue: Queue::default(),
            caches: Caches::default(),
            write_buffer: HashMap::new(),
            counters: Counters::default(),
            messages: Vec::new(),
            violations: Vec::new(),
            confirms: Confirms::default(),
        }
    }

    /// What the unit can do.
    pub fn config(&self) -> &VtdConfig {
        &self.config
    }

    /// Makes the unit faster, slower or stuck from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.config.timing = timing;
    }

    /// Makes the registers answer, or not.
    pub fn set_health(&mut self, health: Health) {
        self.config.health = health;
    }

    /// Has the unit say so of what it has done, from now on.
    pub(crate) fn set_confirms(&mut self, confirms: Confirms) {
        self.confirms = confirms;
    }

    /// Records a fault whose words are these, whatever they mean.
    pub(crate) fn record_words(&mut self, low: u64, high: u64) {
        let message = self.faults.record_words(low, high);
        self.messages.extend(message);
    }

    /// Puts the unit in the state that firmware or a boot loader leaves behind when it used translation: on,
    /// with its own root table at this address.
    pub fn firmware_left_translation_on(&mut self, root_table: u64) {
        self.root_register = root_table;
        self.root = RootTableAddress::from_bits(root_table);
        self.status.set_set_root_table(true);
        self.status.set_translation(true);
    }

    /// Puts the unit in the state that firmware or a boot loader leaves behind when it used queued
    /// invalidation: on, with its own queue of one page at this address, empty, somewhere in the middle.
    pub fn firmware_left_queue_on(&mut self, queue: u64) {
        self.queue.address = QueueAddress::from_bits(queue);
        self.queue.head = 0x40;
        self.queue.tail = 0x40;
        self.status.set_queued_invalidation(true);
    }

    /// Whether translation is on.
    pub fn is_translating(&self) -> bool {
        self.status.translation() && self.config.health == Health::Working
    }

    /// What the unit has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What software did that it must not, in order.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The interrupts that the unit has sent since this was last asked.
    pub(crate) fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// Lets everything happen whose time has come by `now`.
    pub(crate) fn advance(&mut self, bus: Bus<'_>, now: u64) {
        self.now = self.now.max(now);
        self.step(bus);
    }

    fn step(&mut self, bus: Bus<'_>) {
        self.protected.step(self.config.timing.commands, self.now);
        self.step_invalidation();
        self.step_queue(bus);
        self.step_global();
        // A command that turned the queue on may find descriptors in it.
        self.step_queue(bus);
    }

    /// Reads the dword at this offset of the register window.
    pub(crate) fn read(&self, at: u64) -> u32 {
        match self.config.health {
            Health::Working => {}
            Health::AllOnes => return u32::MAX,
            Health::AllZeroes => return 0,
        }
        if let Some(at) = self.iotlb_register(at) {
            let word =
                if at < 8 { self.invalidate_address } else { self.iotlb_command.into_bits() };
            return half(word, at);
        }
        if let Some(value) = self.fault_record(at).and_then(|at| self.faults.read(at)) {
            return value;
        }
        match at {
            offset::VERSION => VERSION,
            offset::GLOBAL_STATUS => self.status.into_bits(),
            offset::FAULT_STATUS => self.faults.status().into_bits(),
            offset::PROTECTED_ENABLE..offset::QUEUE_HEAD => self.protected.read(at),
            offset::COMPLETION_STATUS => self.queue.wait_done.into(),
            _ => match at & !7 {
                offset::CAPABILITY => half(self.config.capability().into_bits(), at),
                offset::EXTENDED_CAPABILITY => {
                    half(self.config.extended_capability().into_bits(), at)
                }
                offset::ROOT_TABLE_ADDRESS => half(self.root_register, at),
                offset::CONTEXT_COMMAND => half(self.context_command.into_bits(), at),
                offset::QUEUE_HEAD => half(self.queue.head, at),
                offset::QUEUE_TAIL => half(self.queue.tail, at),
                offset::QUEUE_ADDRESS => half(self.queue.address.into_bits(), at),
                offset::QUEUE_ERROR_RECORD => half(self.queue.error.into_bits(), at),
                _ => match event_register(at) {
                    Some((offset::FAULT_EVENT, at)) => self.faults.event.read(at),
                    Some((_, at)) => self.queue.event.read(at),
                    None => 0,
                },
            },
        }
    }

    /// Writes the dword at this offset of the register window.
    pub(crate) fn write(&mut self, bus: Bus<'_>, at: u64, value: u32) {
        if self.config.health != Health::Working {
            return;
        }
        if let Some(at) = self.iotlb_register(at) {
            if at < 8 {
                self.invalidate_address = with_half(self.invalidate_address, at, value);
            } else {
                let word = with_half(self.iotlb_command.into_bits(), at, value);
                self.write_iotlb_command(IotlbCommand::from_bits(word));
            }
        } else if let Some(at) = self.fault_record(at) {
            self.faults.write(at, value);
        } else {
            self.write_fixed(at, value);
        }
        self.step(bus);
    }

    fn write_fixed(&mut self, at: u64, value: u32) {
        match at {
            offset::GLOBAL_COMMAND => self.write_global(Global::from_bits(value)),
            offset::FAULT_STATUS => {
                let queue_error = self.faults.status().queue_error();
                self.faults.write_status(FaultStatus::from_bits(value));
                if queue_error && !self.faults.status().queue_error() {
                    self.queue.error.set_queue_error(0);
                }
            }
            offset::PROTECTED_ENABLE..offset::QUEUE_HEAD => {
                self.protected.write(at, value, self.now);
            }
            offset::COMPLETION_STATUS => self.write_completion_status(value),
            _ => match at & !7 {
                offset::ROOT_TABLE_ADDRESS => {
                    self.root_register = with_half(self.root_register, at, value);
                }
                offset::CONTEXT_COMMAND => {
                    let word = with_half(self.context_command.into_bits(), at, value);
                    self.write_context_command(ContextCommand::from_bits(word));
                }
                offset::QUEUE_TAIL if self.config.queued_invalidation => {
                    if at == offset::QUEUE_TAIL {
                        self.write_tail(value.into());
                    }
                }
                offset::QUEUE_ADDRESS if self.config.queued_invalidation => {
                    let word = with_half(self.queue.address.into_bits(), at, value);
                    self.write_queue_address(word);
                }
                _ => {
                    let message = match event_register(at) {
                        Some((offset::FAULT_EVENT, at)) => self.faults.event.write(at, value),
                        Some((_, at)) => self.queue.event.write(at, value),
                        None => None,
                    };
                    self.messages.extend(message);
                }
            },
        }
    }

    /// Where in the IOTLB registers an offset of the window is.
    fn iotlb_register(&self, at: u64) -> Option<u64> {
        at.checked_sub(self.config.iotlb_offset.into()).filter(|&at| at < 16)
    }

    /// Where in the fault recording registers an offset of the window is.
    fn fault_record(&self, at: u64) -> Option<u64> {
        let bytes = FAULT_RECORD * u64::from(self.config.fault_records);
        at.checked_sub(self.config.fault_offset.into()).filter(|&at| at < bytes)
    }
}

/// The first of the event registers that an offset is in, and the offset from it.
fn event_register(at: u64) -> Option<(u64, u64)> {
    [offset::FAULT_EVENT, offset::COMPLETION_EVENT]
        .into_iter()
        .find(|&first| (first..first + 16).contains(&at))
        .map(|first| (first, at - first))
}
