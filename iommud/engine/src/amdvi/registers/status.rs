//! What runs, and what happened.

use bitfield_struct::bitfield;

use super::file::register;

/// IOMMU Status Register, at offset 2020h (3.4).
///
/// The conditions are cleared by writing 1; what says that something runs is read-only.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// EventOverflow, bit 0: more events came than the log had room for, and it has stopped.
    pub event_overflow: bool,
    /// EventLogInt, bit 1: events were logged.
    pub event_interrupt: bool,
    /// ComWaitInt, bit 2: a completion wait asked for an interrupt.
    pub completion_interrupt: bool,
    /// EventLogRun, bit 3: the event log runs.
    #[bits(access = RO)]
    pub event_log_runs: bool,
    /// CmdBufRun, bit 4: the command buffer runs. It stops when it is turned off, and at an error.
    #[bits(access = RO)]
    pub command_buffer_runs: bool,
    /// Bits 6:5. Overflow and interrupt of the page request log.
    #[bits(2)]
    __: u8,
    /// PprLogRun, bit 7: the page request log runs.
    #[bits(access = RO)]
    pub page_request_log_runs: bool,
    /// GALogRun, bit 8: the virtual interrupt log runs.
    #[bits(access = RO)]
    pub virtual_interrupt_log_runs: bool,
    /// Bits 63:9. More of the logs that are not used.
    #[bits(55)]
    __: u64,
}
register!(Status: u64, 0x2020, Readable Writable);

impl Status {
    /// What a read gives when no unit answers.
    pub const GONE: Self = Self::from_bits(u64::MAX);

    /// Whether the unit still reads or writes memory for itself.
    pub const fn anything_runs(self) -> bool {
        self.event_log_runs()
            || self.command_buffer_runs()
            || self.page_request_log_runs()
            || self.virtual_interrupt_log_runs()
    }

    /// What, written, clears every condition of the event log and of completion waits.
    pub const fn clearing_all() -> Self {
        Self::new()
            .with_event_overflow(true)
            .with_event_interrupt(true)
            .with_completion_interrupt(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_where_the_spec_puts_it() {
        assert!(Status::from_bits(0x01).event_overflow());
        assert!(Status::from_bits(0x02).event_interrupt());
        assert!(Status::from_bits(0x04).completion_interrupt());
        assert!(Status::from_bits(0x08).event_log_runs());
        assert!(Status::from_bits(0x10).command_buffer_runs());
        assert!(Status::from_bits(0x80).page_request_log_runs());
        assert!(Status::from_bits(0x100).virtual_interrupt_log_runs());
        assert_eq!(Status::clearing_all().into_bits(), 0x07);
    }

    #[test]
    fn anything_that_runs_counts() {
        for (bits, runs) in [(0x08, true), (0x10, true), (0x80, true), (0x100, true), (0x67, false)]
        {
            assert_eq!(Status::from_bits(bits).anything_runs(), runs, "{bits:#x}");
        }
    }
}
