//! Fault reasons and the fault recording registers: VT-d 3.1, chapter 7 and 10.4.9 to 10.4.14.

use dma_types::SourceId;

use super::event::Event;
use super::registers::{FaultRecordHigh, FaultStatus};
use crate::request::Message;

/// Why a request was blocked: the FR field of a fault record, for legacy mode (7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultReason {
    /// The root entry of the bus is not present.
    RootNotPresent = 0x1,
    /// The context entry of the function is not present.
    ContextNotPresent = 0x2,
    /// The context entry asks for what the unit has not: a width, a translation type; or its table
    /// cannot be read.
    ContextInvalid = 0x3,
    /// The address is wider than the unit's or the table's input addresses.
    AddressBeyondWidth = 0x4,
    /// A write, and some entry on the way does not allow it.
    WriteDenied = 0x5,
    /// A read, and some entry on the way does not allow it.
    ReadDenied = 0x6,
    /// A paging entry points to a table that cannot be read.
    NextTableUnreadable = 0x7,
    /// The root table cannot be read.
    RootTableUnreadable = 0x8,
    /// A context table cannot be read.
    ContextTableUnreadable = 0x9,
    /// A reserved field of a present root entry is set.
    RootReserved = 0xa,
    /// A reserved field of a present context entry is set.
    ContextReserved = 0xb,
    /// A reserved field of a paging entry that allows something is set.
    PageReserved = 0xc,
    /// The device says that it has translated the address itself, which its context entry does not allow.
    RequestTypeBlocked = 0xd,
}

impl FaultReason {
    /// Whether FPD in the context entry keeps it from being recorded (a "qualified" fault, 7.1.3).
    pub(crate) fn is_qualified(self) -> bool {
        !matches!(
            self,
            Self::RootNotPresent
                | Self::RootTableUnreadable
                | Self::ContextTableUnreadable
                | Self::RootReserved
        )
    }
}

/// One fault recording register.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    page: u64,
    high: FaultRecordHigh,
}

/// The fault recording registers, with FSTS and the fault event.
#[derive(Debug)]
pub(crate) struct FaultLog {
    records: Vec<Record>,
    next: usize,
    /// Everything of FSTS but PPF, which follows from the records.
    status: FaultStatus,
    pub(crate) event: Event,
}

impl FaultLog {
    pub(crate) fn new(records: u16) -> Self {
        let records = vec![Record::default(); usize::from(records.max(1))];
        Self { records, next: 0, status: FaultStatus::new(), event: Event::default() }
    }

    /// FSTS_REG.
    pub(crate) fn status(&self) -> FaultStatus {
        let pending = self.records.iter().any(|record| record.high.fault());
        self.status.with_pending(pending)
    }

    /// Writes FSTS_REG: the error bits are cleared by writing 1 to them.
    pub(crate) fn write_status(&mut self, value: FaultStatus) {
        let status = &mut self.status;
        status.set_overflow(status.overflow() && !value.overflow());
        status.set_queue_error(status.queue_error() && !value.queue_error());
        status.set_completion_error(status.completion_error() && !value.completion_error());
        status.set_timeout_error(status.timeout_error() && !value.timeout_error());
        self.clear_if_over();
    }

    /// Records a fault (7.2.1) and gives the interrupt, if one goes out.
    ///
    /// A repeat of a record that is still pending is dropped; hardware may drop more ("collapse multiple
    /// pending faults from the same requester").
    pub(crate) fn record(
        &mut self,
        source: SourceId,
        address: u64,
        reason: FaultReason,
        read: bool,
    ) -> Option<Message> {
        let before = self.status();
        if before.overflow() {
            return None;
        }
        let page = address & !0xfff;
        let high = FaultRecordHigh::new()
            .with_source(source.get())
            .with_reason(reason as u8)
            .with_read(read)
            .with_fault(true);
        self.put(Record { page, high })
    }

    /// Records a fault whose words are these, whatever they mean.
    pub(crate) fn record_words(&mut self, low: u64, high: u64) -> Option<Message> {
        if self.status().overflow() {
            return None;
        }
        self.put(Record { page: low, high: FaultRecordHigh::from_bits(high).with_fault(true) })
    }

    fn put(&mut self, record: Record) -> Option<Message> {
        let before = self.status();
        let Record { page, high } = record;
        let same =
            |record: &Record| record.page == page && record.high.into_bits() == high.into_bits();
        if self.records.iter().any(same) {
            return None;
        }
        let index = self.next;
        let record = self.records.get_mut(index)?;
        if record.high.fault() {
            self.status.set_overflow(true);
            return self.announce(before);
        }
        *record = Record { page, high };
        self.next = (index + 1) % self.records.len();
        if !before.pending() {
            self.status.set_record(index as u8);
        }
        self.announce(before)
    }

    /// Sets an error of the invalidation queue and gives the interrupt, if one goes out.
    pub(crate) fn raise(&mut self, set: impl FnOnce(&mut FaultStatus)) -> Option<Message> {
        let before = self.status();
        set(&mut self.status);
        self.announce(before)
    }

    /// Reads the dword `offset` bytes into the fault recording registers.
    pub(crate) fn read(&self, offset: u64) -> Option<u32> {
        let record = self.records.get((offset / 16) as usize)?;
        let word = if offset % 16 < 8 { record.page } else { record.high.into_bits() };
        Some((word >> (offset % 8 * 8)) as u32)
    }

    /// Writes the dword `offset` bytes into the fault recording registers: F is cleared by writing 1.
    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        let high = FaultRecordHigh::from_bits(u64::from(value) << 32);
        if offset % 16 == 12
            && high.fault()
            && let Some(record) = self.records.get_mut((offset / 16) as usize)
        {
            record.high.set_fault(false);
        }
        self.clear_if_over();
    }

    /// Translation was turned off: the next fault goes into the first record again.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// An interrupt condition, unless one was there already (FECTL.IP).
    fn announce(&mut self, before: FaultStatus) -> Option<Message> {
        if has_condition(before) { None } else { self.event.raise() }
    }

    fn clear_if_over(&mut self) {
        if !has_condition(self.status()) {
            self.event.clear_pending();
        }
    }
}

/// Whether any of the status fields is set for which a fault event is sent.
fn has_condition(status: FaultStatus) -> bool {
    status.overflow()
        || status.pending()
        || status.queue_error()
        || status.completion_error()
        || status.timeout_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log: &mut FaultLog, source: u16, address: u64) -> Option<Message> {
        log.record(SourceId::new(source), address, FaultReason::WriteDenied, false)
    }

    #[test]
    fn a_record_reads_as_literal_words_and_clears_by_writing_one() {
        let mut log = FaultLog::new(1);
        log.record(SourceId::new(0x10), 0x12_3456_7abc, FaultReason::ReadDenied, true);
        let words: Vec<_> = (0..16).step_by(4).map(|at| log.read(at)).collect();
        assert_eq!(words, [Some(0x3456_7000), Some(0x12), Some(0x10), Some(0xc000_0006)]);
        assert_eq!(log.read(16), None);
        assert_eq!(log.status().into_bits(), 0x2);
        log.write(12, 0x4000_0000);
        assert_eq!(log.status().into_bits(), 0x2);
        log.write(12, 0x8000_0000);
        assert_eq!(log.status().into_bits(), 0);
        assert_eq!(log.read(12), Some(0x4000_0006));
    }

    #[test]
    fn repeats_are_dropped_and_a_full_log_overflows() {
        let mut log = FaultLog::new(2);
        record(&mut log, 0x10, 0x1000);
        record(&mut log, 0x10, 0x1008);
        assert_eq!(log.read(28), Some(0));
        record(&mut log, 0x18, 0x1000);
        assert_eq!(log.status().into_bits(), 0x2);
        record(&mut log, 0x20, 0x1000);
        assert_eq!(log.status().into_bits(), 0x3);
        log.write(12, 0x8000_0000);
        record(&mut log, 0x28, 0x1000);
        assert_eq!(log.read(8), Some(0x10), "nothing is recorded until the overflow is cleared");
        log.write_status(FaultStatus::from_bits(1));
        record(&mut log, 0x28, 0x1000);
        assert_eq!(log.read(8), Some(0x28));
    }

    #[test]
    fn the_first_pending_record_is_named_and_records_wrap() {
        let mut log = FaultLog::new(3);
        record(&mut log, 1, 0);
        log.write(12, 0x8000_0000);
        record(&mut log, 2, 0);
        record(&mut log, 3, 0);
        assert_eq!(log.status().into_bits(), 0x102);
        record(&mut log, 4, 0);
        assert_eq!(log.read(8), Some(4));
    }

    #[test]
    fn one_interrupt_is_sent_until_the_log_is_empty() {
        let mut log = FaultLog::new(4);
        log.event.write(8, 0xfee0_0000);
        log.event.write(0, 0);
        assert!(record(&mut log, 1, 0).is_some());
        assert!(record(&mut log, 2, 0).is_none());
        assert!(log.raise(|status| status.set_queue_error(true)).is_none());
        log.write(12, 0x8000_0000);
        log.write(28, 0x8000_0000);
        assert!(record(&mut log, 3, 0).is_none());
        log.write(44, 0x8000_0000);
        log.write_status(FaultStatus::from_bits(0x10));
        assert!(record(&mut log, 4, 0).is_some());
    }
}
