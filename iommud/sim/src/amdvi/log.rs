//! The event log: AMD 48882, 2.5.1.

use super::event::EventLow;
use super::registers::RingBase;
use super::unit::{AmdviUnit, Violation};
use crate::dram::Bus;

/// The bytes of an event.
const EVENT: u64 = 16;

/// The registers of the log, and whether it runs.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) base: RingBase,
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) runs: bool,
}

impl AmdviUnit {
    /// Writes an event into the log, if it runs. A full log overflows: it stops, and the event is lost.
    pub(super) fn log(&mut self, bus: Bus<'_>, low: EventLow, address: u64) {
        if !self.log.runs || !self.config.logs_events {
            return;
        }
        let bytes = self.log.base.bytes();
        let next = (self.log.tail + EVENT) % bytes;
        if next == self.log.head {
            self.log.runs = false;
            self.status.set_overflow(true);
            return self.announce_event();
        }
        let at = (self.log.base.page() << 12) + self.log.tail;
        let words = [low.into_bits().to_le_bytes(), address.to_le_bytes()].concat();
        if !bus.memory.write(at, &words) {
            self.violate(Violation::EventLogMemory);
        }
        self.log.tail = next;
        if !self.status.event_interrupt() {
            self.status.set_event_interrupt(true);
            self.announce_event();
        }
    }

    /// Makes the unit log an event, as if it had happened. For what no simulated hardware does.
    pub(crate) fn log_words(&mut self, bus: Bus<'_>, low: u64, high: u64) {
        self.log(bus, EventLow::from_bits(low), high);
    }

    fn announce_event(&mut self) {
        if self.control.event_interrupt() {
            self.interrupts += 1;
        }
    }

    /// Writes the head: software has read up to there.
    pub(super) fn write_log_head(&mut self, value: u64) {
        let bytes = self.log.base.bytes();
        if value >= bytes
            || distance(value, self.log.tail, bytes) > distance(self.log.head, self.log.tail, bytes)
        {
            self.violate(Violation::EventHead);
        }
        self.log.head = value;
    }

    /// Writes the base: head and tail start anew.
    pub(super) fn write_log_base(&mut self, value: u64) {
        if self.log.runs {
            self.violate(Violation::EventLogWhileRunning);
        }
        self.log.base = RingBase::from_bits(value);
        (self.log.head, self.log.tail) = (0, 0);
    }
}

/// How far it is from one offset of a ring to another, upwards.
pub(super) fn distance(from: u64, to: u64, bytes: u64) -> u64 {
    to.wrapping_sub(from) % bytes
}
