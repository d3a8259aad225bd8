//! The event log in memory (2.5).
//!
//! One frame: 256 events of 16 bytes, which the unit writes and we read when asked for faults. When there is no
//! room, the unit drops what comes and stops the log, which is started again as soon as it has been read.
//!
//! The unit interrupts when EventLogInt goes from 0 to 1. So that is cleared before the log is read: what comes
//! after sets it again.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use dma_types::PhysAddr;

use super::event::Event;
use super::registers::{
    Control, EventLogBase, EventLogHead, EventLogTail, RegisterFile, RingBase, RingPlace, Status,
};
use crate::fault::Fault;
use crate::platform::{Instant, Platform, Registers, TableFrames};
use crate::unit::fault_source::MOST_ROUNDS;
use crate::unit::{FaultSource, UnitFailure};

/// Events in the log's one frame.
const LENGTH: u16 = 256;

/// How many events are logged before one is lost.
pub const ROOM: u32 = LENGTH as u32 - 1;

/// How long an event is waited for that the unit has counted and not written. Some count first (erratum 732, as
/// Linux knows it); what is still missing then will not come.
const PATIENCE: Duration = Duration::from_millis(10);

/// The event log of one unit.
#[derive(Debug)]
pub struct EventLog {
    events: PhysAddr,
    /// The event that is read next.
    head: u16,
    /// Since when that event is waited for, though the unit has counted it.
    waiting: Option<Instant>,
    /// How the control register is to be while the unit logs to it; `None` as long as it does not.
    control: Option<Control>,
}

impl EventLog {
    /// An empty log, or `None` if there is no frame for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        Some(Self { events: frames.alloc_frame()?, head: 0, waiting: None, control: None })
    }

    /// Gives its frame back. Only for a log that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        frames.free_frame(self.events);
    }

    /// Tells a unit whose event log is off where it is. `control` is how the unit is to run.
    pub fn install(
        &mut self,
        platform: &mut impl Registers,
        registers: &RegisterFile,
        control: Control,
    ) {
        self.control = Some(control);
        registers.write(platform, EventLogBase(RingBase::new().with_start(self.events)));
        registers.write(platform, EventLogHead(RingPlace::new()));
        registers.write(platform, EventLogTail(RingPlace::new()));
    }

    /// Reads the events that the unit logged, makes room for more, and acknowledges the interrupt. True if more came
    /// than there was room for.
    ///
    /// It is looked at again until there is nothing left to acknowledge: in some units EventLogInt stays when it is
    /// cleared at the moment of an event, and they never interrupt again (erratum 1312, as Linux knows it).
    ///
    /// # Errors
    ///
    /// [`UnitFailure::Vanished`] for a unit that is gone.
    ///
    /// A unit that does not log here is left alone: turned on, its log would be wherever firmware had it, in memory
    /// that may be anyone's by now.
    pub fn take(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        source: &mut FaultSource,
        faults: &mut Vec<Fault>,
    ) -> Result<bool, UnitFailure> {
        let Some(control) = self.control else { return Ok(false) };
        let mut lost = false;
        let mut drained = false;
        for _ in 0..MOST_ROUNDS {
            // What comes later shows in the next status, so that no overflow goes unseen.
            let status: Status = registers.read(platform);
            if status == Status::GONE {
                return Err(UnitFailure::Vanished);
            }
            if status.event_interrupt() {
                registers.write(platform, Status::new().with_event_interrupt(true));
            }
            self.drain(platform, registers, faults);
            let stopped = !status.event_log_runs() || status.event_overflow();
            if stopped {
                restart(platform, registers, control);
            }
            lost |= status.event_overflow();
            drained = !stopped && !status.event_interrupt() && self.waiting.is_none();
            if drained || self.waiting.is_some() {
                break;
            }
        }
        source.set_drained(drained);
        Ok(lost)
    }

    fn drain(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        faults: &mut Vec<Fault>,
    ) {
        let EventLogTail(tail) = registers.read(platform);
        // A place beyond the end is none. What is before it is read at most once round, whatever comes
        // meanwhile (rule R5).
        if tail.entry() >= LENGTH || tail.entry() == self.head {
            return;
        }
        while self.head != tail.entry() {
            let event = self.event(platform);
            if event.is_written() {
                faults.push(event.decode());
            } else {
                let now = platform.now();
                let since = *self.waiting.get_or_insert(now);
                if now.since(since) < PATIENCE {
                    break;
                }
            }
            self.waiting = None;
            self.clear(platform);
            self.head = (self.head + 1) % LENGTH;
        }
        registers.write(platform, EventLogHead(RingPlace::new().with_entry(self.head)));
    }

    /// The event at the head. Its code, which tells that it is written, is in the first word.
    fn event(&self, frames: &impl TableFrames) -> Event {
        let word = usize::from(self.head) * 2;
        let words = frames
            .table(self.events)
            .map_or([0; 2], |table| [0, 1].map(|n| table[word + n].load(Ordering::Acquire)));
        Event::from_words(words)
    }

    /// Forgets the event at the head, so that what the unit has not written there shows.
    fn clear(&self, frames: &impl TableFrames) {
        if let Some(table) = frames.table(self.events) {
            let word = usize::from(self.head) * 2;
            table[word + 1].store(0, Ordering::Relaxed);
            table[word].store(0, Ordering::Release);
        }
    }
}

/// Starts a log that has stopped: turned off, its overflow cleared, turned on. If it has not stopped yet, the
/// next time.
///
/// The rest of the control register is written as it is to be, and not as it reads, so that nothing a unit makes up
/// turns anything on, or translation off (rules R1 and R5).
fn restart(platform: &mut impl Platform, registers: &RegisterFile, control: Control) {
    registers.write(platform, control.with_event_log(false));
    let status: Status = registers.read(platform);
    if !status.event_log_runs() {
        registers.write(platform, Status::new().with_event_overflow(true));
    }
    registers.write(platform, control.with_event_log(true));
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMachine;
    use super::*;
    use dma_types::Iova;

    /// A denied write of 00:02.0 to this address.
    fn fault(address: u64) -> [u64; 2] {
        [0x2020_0005_0000_0010, address]
    }

    /// A machine whose unit logs to our event log.
    fn running() -> (FakeMachine, RegisterFile, EventLog) {
        let mut machine = FakeMachine::new();
        let registers = FakeMachine::registers();
        let mut log = EventLog::new(&mut machine).unwrap();
        let control = Control::new().with_translation(true).with_event_log(true);
        log.install(&mut machine, &registers, control);
        registers.write(&mut machine, control);
        (machine, registers, log)
    }

    fn take(
        machine: &mut FakeMachine,
        registers: &RegisterFile,
        log: &mut EventLog,
    ) -> (Vec<u64>, bool) {
        let mut faults = Vec::new();
        let lost = log.take(machine, registers, &mut FaultSource::new(true), &mut faults).unwrap();
        (faults.iter().map(|fault| fault.address.get()).collect(), lost)
    }

    /// Whether the unit is to be looked at again by itself, after its log was read.
    fn wants_polling(
        machine: &mut FakeMachine,
        registers: &RegisterFile,
        log: &mut EventLog,
    ) -> bool {
        let mut source = FaultSource::new(true);
        log.take(machine, registers, &mut source, &mut Vec::new()).unwrap();
        source.wants_polling()
    }

    #[test]
    fn events_are_read_in_order_over_the_wrap_and_make_room() {
        let (mut machine, registers, mut log) = running();
        for round in 0..10 {
            let sent: Vec<u64> = (0..100).map(|n| (round * 100 + n) << 12).collect();
            sent.iter().for_each(|address| machine.log(fault(*address)));
            assert_eq!(take(&mut machine, &registers, &mut log), (sent, false));
        }
        assert_eq!(take(&mut machine, &registers, &mut log), (Vec::new(), false));
    }

    #[test]
    fn a_log_that_overflowed_is_told_and_runs_again() {
        let (mut machine, registers, mut log) = running();
        (0..300).for_each(|n| machine.log(fault(n << 12)));
        let (read, lost) = take(&mut machine, &registers, &mut log);
        assert_eq!((read.len(), lost), (255, true));
        machine.log(fault(0x7000));
        assert_eq!(take(&mut machine, &registers, &mut log), ([0x7000].into(), false));
    }

    #[test]
    fn r1_a_log_runs_again_without_anything_else_being_as_the_unit_made_it_up() {
        for noise in [0, u64::MAX, 0x10_0000_3004] {
            let (mut machine, registers, mut log) = running();
            (0..300).for_each(|n| machine.log(fault(n << 12)));
            machine.words[0x18 / 8] = noise;
            machine.writes.clear();
            assert!(take(&mut machine, &registers, &mut log).1);
            let control: Vec<u64> =
                machine.writes.iter().filter(|it| it.0 == 0x18).map(|it| it.1).collect();
            assert_eq!(control, [0x1, 0x5], "{noise:#x}");
        }
    }

    #[test]
    fn an_event_that_is_counted_before_it_is_written_is_waited_for() {
        let (mut machine, registers, mut log) = running();
        machine.log([0, 0]);
        machine.log(fault(0x2000));
        assert_eq!(take(&mut machine, &registers, &mut log), (Vec::new(), false));
        machine.now += 1_000_000;
        assert_eq!(take(&mut machine, &registers, &mut log), (Vec::new(), false));
        let [low, high] = fault(0x1000);
        machine.store(log.events, low);
        machine.store(PhysAddr::new(log.events.get() + 8), high);
        let both = [0x1000, 0x2000].into();
        assert_eq!(take(&mut machine, &registers, &mut log), (both, false));
    }

    #[test]
    fn a_unit_is_polled_that_has_told_of_an_event_and_not_written_it() {
        let (mut machine, registers, mut log) = running();
        machine.log([0, 0]);
        // Its interrupt has been acknowledged with the first reading.
        for _ in 0..3 {
            assert!(wants_polling(&mut machine, &registers, &mut log));
        }
        machine.store(log.events, fault(0x1000)[0]);
        assert!(!wants_polling(&mut machine, &registers, &mut log));
    }

    #[test]
    fn a_unit_is_polled_whose_log_has_not_stopped_yet_to_be_started_again() {
        const OVERFLOWED_AND_RUNS: u64 = 0b1001;
        let (mut machine, registers, mut log) = running();
        machine.words[0x2020 / 8] = OVERFLOWED_AND_RUNS;
        machine.stops = false;
        assert!(wants_polling(&mut machine, &registers, &mut log));
        machine.stops = true;
        assert!(!wants_polling(&mut machine, &registers, &mut log));
        assert_eq!(machine.word(0x2020), 0b1000);
    }

    #[test]
    fn a_log_that_has_stopped_without_a_word_is_started_again() {
        let (mut machine, registers, mut log) = running();
        machine.words[0x2020 / 8] = 0;
        assert!(!wants_polling(&mut machine, &registers, &mut log));
        assert_eq!(machine.word(0x2020), 0b1000);
    }

    #[test]
    fn r5_an_event_that_never_comes_holds_nothing_up() {
        let (mut machine, registers, mut log) = running();
        machine.log([0, 0]);
        machine.log(fault(0x2000));
        take(&mut machine, &registers, &mut log);
        machine.now += PATIENCE.as_nanos() as u64;
        assert_eq!(take(&mut machine, &registers, &mut log), ([0x2000].into(), false));
    }

    #[test]
    fn an_event_of_the_last_round_is_not_read_again() {
        let (mut machine, registers, mut log) = running();
        (0..256).for_each(|n| {
            machine.log(fault(n << 12));
            take(&mut machine, &registers, &mut log);
        });
        // Counted, at the place of the first, and not written.
        machine.words[0x2018 / 8] = 0x10;
        assert_eq!(take(&mut machine, &registers, &mut log), (Vec::new(), false));
    }

    #[test]
    fn r5_a_place_beyond_the_end_is_no_event() {
        let (mut machine, registers, mut log) = running();
        machine.words[0x2018 / 8] = 0x1000;
        assert_eq!(take(&mut machine, &registers, &mut log), (Vec::new(), false));
        machine.words.fill(u64::MAX);
        let gone = log.take(&mut machine, &registers, &mut FaultSource::new(true), &mut Vec::new());
        assert_eq!(gone, Err(UnitFailure::Vanished));
        assert_eq!(machine.writes.last(), Some(&(0x18, 0x5)), "a unit that is gone is left alone");
    }

    #[test]
    fn what_an_event_says_becomes_a_fault() {
        let (mut machine, registers, mut log) = running();
        machine.log([5 << 60, 0x12_3440]);
        let mut faults = Vec::new();
        log.take(&mut machine, &registers, &mut FaultSource::new(false), &mut faults).unwrap();
        assert_eq!((faults[0].device, faults[0].address), (None, Iova::new(0x12_3440)));
    }
}
