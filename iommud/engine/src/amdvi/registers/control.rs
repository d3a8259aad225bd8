//! What is on.

use bitfield_struct::{bitenum, bitfield};

use super::file::register;

/// InvTimeOut: how long a device's own cache may take over an invalidation (3.4.4).
#[bitenum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InvalidationTimeout {
    /// For ever.
    Never = 0b000,
    /// A millisecond.
    Milliseconds1 = 0b001,
    /// Ten milliseconds.
    Milliseconds10 = 0b010,
    /// A tenth of a second.
    Milliseconds100 = 0b011,
    /// A second.
    Seconds1 = 0b100,
    /// Ten seconds.
    Seconds10 = 0b101,
    /// A hundred seconds.
    Seconds100 = 0b110,
    /// Reserved.
    #[fallback]
    Reserved = 0b111,
}

/// IOMMU Control Register (3.4.4).
///
/// The fields that the engine does not know stay zero: all of them turn something on.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// IommuEn, bit 0: requests are translated. Off, the unit passes them all, reads no commands and logs no
    /// events.
    pub translation: bool,
    /// HtTunEn, bit 1: traffic of a HyperTransport tunnel is translated, too.
    pub tunnel: bool,
    /// EventLogEn, bit 2: the event log runs.
    pub event_log: bool,
    /// EventIntEn, bit 3: the event log interrupts.
    pub event_interrupt: bool,
    /// ComWaitIntEn, bit 4: completion waits may interrupt.
    pub completion_interrupt: bool,
    /// InvTimeOut, bits 7:5.
    #[bits(3)]
    pub invalidation_timeout: InvalidationTimeout,
    /// PassPW, bit 8: an attribute of the unit's requests on HyperTransport, as firmware wants it.
    pub pass_posted_writes: bool,
    /// ResPassPW, bit 9: the same of responses.
    pub responses_pass_posted_writes: bool,
    /// Coherent, bit 10: the unit snoops the processors' caches when it reads the device table.
    pub coherent: bool,
    /// Isoc, bit 11: an attribute of the unit's requests on HyperTransport, as firmware wants it.
    pub isochronous: bool,
    /// CmdBufEn, bit 12: the command buffer runs. One that has stopped starts again with a change from off to on.
    pub command_buffer: bool,
    /// PPRLogEn, bit 13: the log of page requests runs.
    pub page_request_log: bool,
    /// PPRIntEn, bit 14: that log interrupts.
    pub page_request_interrupt: bool,
    /// PPREn, bit 15: page requests are taken.
    pub page_requests: bool,
    /// Bits 27:16. Guest translation, virtual interrupts and the SMI filter.
    #[bits(12)]
    __: u16,
    /// GALogEn, bit 28: the log of virtual interrupts runs.
    pub virtual_interrupt_log: bool,
    /// GAIntEn, bit 29: that log interrupts.
    pub virtual_interrupt_interrupt: bool,
    /// Bits 33:30. Second logs.
    #[bits(4)]
    __: u8,
    /// DevTblSegEn, bits 36:34: the logarithm of how many segments the device table has.
    #[bits(3)]
    pub segments_order: u8,
    /// Bits 63:37. Routing, dirty bits, x2APIC and virtual IOMMUs.
    #[bits(27)]
    __: u32,
}
register!(Control: u64, 0x0018, Readable Writable);

impl Control {
    /// What a read gives when no unit answers.
    pub const GONE: Self = Self::from_bits(u64::MAX);

    /// The same with everything off by which the unit reads or writes memory for itself, or interrupts.
    pub const fn without_rings(self) -> Self {
        self.with_event_log(false)
            .with_event_interrupt(false)
            .with_completion_interrupt(false)
            .with_command_buffer(false)
            .with_page_request_log(false)
            .with_page_request_interrupt(false)
            .with_page_requests(false)
            .with_virtual_interrupt_log(false)
            .with_virtual_interrupt_interrupt(false)
    }

    /// Whether something besides the two rings is on that changes how requests are translated, so that the
    /// unit must be turned off before it takes other tables.
    pub const fn has_more_than_rings(self) -> bool {
        const HARMLESS: u64 = Control::new()
            .with_translation(true)
            .with_tunnel(true)
            .with_event_log(true)
            .with_event_interrupt(true)
            .with_completion_interrupt(true)
            .with_invalidation_timeout(InvalidationTimeout::Reserved)
            .with_pass_posted_writes(true)
            .with_responses_pass_posted_writes(true)
            .with_coherent(true)
            .with_isochronous(true)
            .with_command_buffer(true)
            .into_bits();
        self.into_bits() & !HARMLESS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_where_the_spec_puts_it() {
        let control = Control::new;
        assert_eq!(control().with_translation(true).into_bits(), 0x0001);
        assert_eq!(control().with_tunnel(true).into_bits(), 0x0002);
        assert_eq!(control().with_event_log(true).into_bits(), 0x0004);
        assert_eq!(control().with_event_interrupt(true).into_bits(), 0x0008);
        assert_eq!(control().with_completion_interrupt(true).into_bits(), 0x0010);
        let second = control().with_invalidation_timeout(InvalidationTimeout::Seconds1);
        assert_eq!(second.into_bits(), 0x0080);
        assert_eq!(control().with_pass_posted_writes(true).into_bits(), 0x0100);
        assert_eq!(control().with_responses_pass_posted_writes(true).into_bits(), 0x0200);
        assert_eq!(control().with_coherent(true).into_bits(), 0x0400);
        assert_eq!(control().with_isochronous(true).into_bits(), 0x0800);
        assert_eq!(control().with_command_buffer(true).into_bits(), 0x1000);
        assert_eq!(control().with_page_request_log(true).into_bits(), 0x2000);
        assert_eq!(control().with_page_request_interrupt(true).into_bits(), 0x4000);
        assert_eq!(control().with_page_requests(true).into_bits(), 0x8000);
        assert_eq!(control().with_virtual_interrupt_log(true).into_bits(), 0x1000_0000);
        assert_eq!(control().with_virtual_interrupt_interrupt(true).into_bits(), 0x2000_0000);
        assert_eq!(control().with_segments_order(3).into_bits(), 0xc_0000_0000);
    }

    #[test]
    fn without_rings_the_unit_leaves_memory_alone_and_goes_on_translating() {
        let rest = Control::from_bits(u64::MAX).without_rings().into_bits();
        assert_eq!(!rest, 0x3000_f01c);
    }

    #[test]
    fn what_firmware_may_leave_on_besides_is_noticed() {
        assert!(!Control::from_bits(0x1fff).has_more_than_rings());
        for bit in 13..64 {
            assert!(Control::from_bits(1 | 1 << bit).has_more_than_rings(), "bit {bit}");
        }
    }
}
