//! Events as the event log carries them, 128 bits each, decoded (2.5).

use bitfield_struct::bitfield;
use dma_types::{Iova, SourceId};

use super::device_table_entry::BLOCKED_DOMAIN;
use crate::fault::{Fault, FaultCode, FaultReason, Tried};

/// An event, as far as all kinds are alike.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct Event {
    /// DeviceID, bits 15:0: the requester, in the events that have one.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    /// Bits 31:16. The upper bits of a PASID.
    #[bits(16)]
    __: u16,
    /// DomainID, or the lower bits of a PASID, bits 47:32.
    #[bits(16)]
    pub domain: u16,
    /// Bits 59:48. Each kind of event has its own; most are as in [`EventFlags`].
    #[bits(12, from = EventFlags::from_bits, into = EventFlags::into_bits, default = EventFlags::new())]
    pub flags: EventFlags,
    /// EventCode, bits 63:60. Zero until the unit has written the event.
    #[bits(4)]
    pub code: u8,
    /// Bits 127:64: the address asked for, or that of what the unit could not read.
    #[bits(64, from = Iova::new, into = Iova::get, default = Iova::new(0))]
    pub address: Iova,
}

/// Bits 59:48 of most events (figures of 2.5.2 to 2.5.9).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct EventFlags {
    /// GN: the address is a guest's, and the event has a PASID in the place of the domain id.
    pub guest: bool,
    /// NX: it was to be executed.
    pub execute: bool,
    /// US: it was asked for with a user's privilege.
    pub user: bool,
    /// I: the request was an interrupt.
    pub interrupt: bool,
    /// PR: the page, or what it is about, is present.
    pub present: bool,
    /// RW: the request was to write.
    pub write: bool,
    /// PE: a right was missing. Only for what is present.
    pub permission: bool,
    /// RZ: reserved bits were set; else, where there is no other reason, a level that is none. Only for what is
    /// present.
    pub reserved_bits: bool,
    /// TR: the device asked for a translation, to keep it.
    pub translation: bool,
    /// Type, of some events.
    #[bits(3)]
    pub kind: u8,
    /// Bits 15:12. Not in an event.
    #[bits(4)]
    __: u8,
}

/// What went wrong with an access of the unit to memory: Type of hardware errors, bits 58:57.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HardwareError {
    MasterAbort,
    TargetAbort,
    DataError,
    Unknown,
}

impl HardwareError {
    const fn of(flags: EventFlags) -> Self {
        match flags.kind() & 0b11 {
            0b01 => Self::MasterAbort,
            0b10 => Self::TargetAbort,
            0b11 => Self::DataError,
            _ => Self::Unknown,
        }
    }
}

impl Event {
    /// The event that these two words of the log are, the lower address first.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self::from_bits((words[1] as u128) << 64 | words[0] as u128)
    }

    /// Whether the unit has written it: what it has not is zero.
    pub const fn is_written(self) -> bool {
        self.code() != 0
    }

    /// What happened. Of what is never turned on, too: firmware may have left something on.
    pub const fn decode(self) -> Fault {
        use FaultReason::{Command, DeviceTable, Mode, PageTable, Translated, Unknown};
        let flags = self.flags();
        match self.code() {
            // ILLEGAL_DEV_TABLE_ENTRY (2.5.2).
            0x1 if flags.reserved_bits() => {
                self.of_device(DeviceTable, "reserved bits are set in its device table entry")
            }
            0x1 => self.of_device(DeviceTable, "its device table entry makes no sense"),
            // IO_PAGE_FAULT (2.5.3).
            0x2 => self.page_fault(),
            // DEV_TAB_HARDWARE_ERROR (2.5.4).
            0x3 => self.of_device(
                DeviceTable,
                match HardwareError::of(flags) {
                    HardwareError::MasterAbort => {
                        "nothing is where its device table entry should be"
                    }
                    HardwareError::TargetAbort => "memory refused to give its device table entry",
                    HardwareError::DataError => "memory gave its device table entry with an error",
                    HardwareError::Unknown => "the unit could not read its device table entry",
                },
            ),
            // PAGE_TAB_HARDWARE_ERROR (2.5.5).
            0x4 => self.of_device(
                PageTable,
                match HardwareError::of(flags) {
                    HardwareError::MasterAbort => "nothing is where its page table should be",
                    HardwareError::TargetAbort => {
                        "memory refused to give an entry of its page table"
                    }
                    HardwareError::DataError => {
                        "memory gave an entry of its page table with an error"
                    }
                    HardwareError::Unknown => "the unit could not read an entry of its page table",
                },
            ),
            // ILLEGAL_COMMAND_ERROR (2.5.6).
            0x5 => self.of_unit(Command, "the unit could not make sense of a command"),
            // COMMAND_HARDWARE_ERROR (2.5.7).
            0x6 => self.of_unit(
                Command,
                match HardwareError::of(flags) {
                    HardwareError::MasterAbort => "nothing is where the unit's commands should be",
                    HardwareError::TargetAbort => "memory refused to give the unit a command",
                    HardwareError::DataError => "memory gave the unit a command with an error",
                    HardwareError::Unknown => "the unit could not read a command",
                },
            ),
            // IOTLB_INV_TIMEOUT (2.5.8).
            0x7 => Fault {
                tried: Tried::Internal,
                ..self
                    .of_device(Command, "it did not confirm that it forgot what it had translated")
            },
            // INVALID_DEVICE_REQUEST (2.5.9).
            0x8 => self.invalid_request(),
            // INVALID_PPR_REQUEST (2.5.10).
            0x9 => {
                Fault { tried: Tried::Page, ..self.of_device(Mode, "page requests are not in use") }
            }
            // EVENT_COUNTER_ZERO (2.5.11): the second word is no address.
            0xa => Fault {
                address: Iova::new(0),
                ..self.of_unit(Mode, "a performance counter overflowed, and none is in use")
            },
            // GUEST_EVENT_FAULT (2.5.12) and the hardware error of virtual units.
            0xb | 0xc => self.of_unit(Mode, "a virtual unit failed, and none is in use"),
            // RMP_PAGE_FAULT and RMP_HARDWARE_ERROR, of secure nested paging.
            0xd => self.of_device(Translated, "the page belongs to a confidential guest"),
            0xe => self.of_device(DeviceTable, "the unit could not read to whom the page belongs"),
            _ => self.of_unit(Unknown, "the unit reports what this version does not know"),
        }
    }

    /// IO_PAGE_FAULT: a request that the tables do not allow.
    const fn page_fault(self) -> Fault {
        use FaultReason::{Interrupt, NoDomain, NotReadable, NotWritable, PageTable};
        let flags = self.flags();
        if flags.interrupt() {
            return self.of_device(Interrupt, "the interrupt remapping table does not allow it");
        }
        if !flags.guest() && self.domain() == BLOCKED_DOMAIN.get() {
            return self.of_device(NoDomain, "it is attached to no domain");
        }
        if flags.present() && !flags.permission() {
            return if flags.reserved_bits() {
                self.of_device(PageTable, "reserved bits are set in an entry of its page table")
            } else {
                self.of_device(PageTable, "an entry of its page table leads to no level there is")
            };
        }
        if flags.write() {
            self.of_device(NotWritable, "the page is not mapped for writing")
        } else {
            self.of_device(NotReadable, "the page is not mapped for reading")
        }
    }

    /// INVALID_DEVICE_REQUEST: a request of a kind that is not allowed, at any address. The event does not tell
    /// its direction, but some kinds have only one.
    const fn invalid_request(self) -> Fault {
        use FaultReason::{InterruptRange, Mode, Translated, Unknown};
        let flags = self.flags();
        if flags.translation() {
            let fault = self.of_device(Translated, "it may not translate addresses itself");
            return Fault { tried: Tried::Translation, ..fault };
        }
        let (tried, reason, detail) = match flags.kind() {
            0b000 => (
                Tried::Access,
                InterruptRange,
                "only posted writes may go where interrupts and messages go",
            ),
            0b001 => {
                (Tried::Access, Translated, "it may not use addresses that it translated itself")
            }
            0b010 => (Tried::Access, Mode, "it may not reach I/O ports"),
            0b011 => (Tried::Write, Mode, "it may not send system management messages"),
            0b100 => (Tried::Write, InterruptRange, "it may not send interrupts"),
            0b101 => (Tried::Write, InterruptRange, "what it sent to where interrupts go is none"),
            0b110 => (Tried::Write, Mode, "what it sent is no system management message"),
            _ => (Tried::Access, Unknown, "for a reason that this version does not know"),
        };
        Fault { tried, ..self.of_device(reason, detail) }
    }

    /// A fault of the requester that the event names.
    const fn of_device(self, reason: FaultReason, detail: &'static str) -> Fault {
        let flags = self.flags();
        let tried = if flags.interrupt() {
            Tried::Interrupt
        } else if flags.translation() {
            Tried::Translation
        } else if flags.write() {
            Tried::Write
        } else {
            Tried::Read
        };
        let address = if flags.interrupt() { Iova::new(0) } else { self.address() };
        let device = Some(self.source());
        Fault { device, address, tried, reason, code: self.fault_code(), detail }
    }

    /// Trouble that no device made.
    const fn of_unit(self, reason: FaultReason, detail: &'static str) -> Fault {
        Fault {
            device: None,
            address: self.address(),
            tried: Tried::Internal,
            reason,
            code: self.fault_code(),
            detail,
        }
    }

    const fn fault_code(self) -> FaultCode {
        FaultCode::Amdvi { event: self.code(), flags: self.flags().into_bits() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: SourceId = SourceId::new(0x0010);

    /// An event of 00:02.0 under domain id 5.
    fn event(code: u64, flags: u64, address: u64) -> Fault {
        Event::from_words([code << 60 | flags << 48 | 0x5_0000_0010, address]).decode()
    }

    fn told(fault: Fault) -> (Tried, FaultReason) {
        (fault.tried, fault.reason)
    }

    #[test]
    fn a_denied_write_is_decoded_with_device_address_and_direction() {
        // As Linux prints one: flags=0x0020.
        let fault = event(2, 0x020, 0xdead_b000);
        assert_eq!((fault.device, fault.address), (Some(DEVICE), Iova::new(0xdead_b000)));
        assert_eq!(told(fault), (Tried::Write, FaultReason::NotWritable));
        assert_eq!(fault.code, FaultCode::Amdvi { event: 2, flags: 0x020 });
        assert_eq!(fault.detail, "the page is not mapped for writing");
        let denied = event(2, 0x070, 0x1000);
        assert_eq!(told(denied), (Tried::Write, FaultReason::NotWritable));
    }

    #[test]
    fn a_denied_read_is_decoded_with_all_of_a_high_address() {
        let fault = event(2, 0x050, 0xffff_ffff_ffff_f678);
        assert_eq!(fault.address, Iova::new(0xffff_ffff_ffff_f678));
        assert_eq!(told(fault), (Tried::Read, FaultReason::NotReadable));
        assert_eq!(told(event(2, 0, 0)), (Tried::Read, FaultReason::NotReadable));
    }

    #[test]
    fn r1_a_fault_under_the_blocked_domain_says_that_the_device_has_none() {
        let words = [0x2020_0000_0000_0010, 0x1000];
        let fault = Event::from_words(words).decode();
        assert_eq!(told(fault), (Tried::Write, FaultReason::NoDomain));
        // With GN the field is a PASID.
        let guest = Event::from_words([words[0] | 1 << 48, words[1]]).decode();
        assert_eq!(guest.reason, FaultReason::NotWritable);
    }

    #[test]
    fn a_page_table_that_makes_no_sense_is_the_page_table_s_fault() {
        assert_eq!(told(event(2, 0x0b0, 0)), (Tried::Write, FaultReason::PageTable));
        assert_eq!(told(event(2, 0x010, 0)), (Tried::Read, FaultReason::PageTable));
        assert_ne!(event(2, 0x0b0, 0).detail, event(2, 0x010, 0).detail);
    }

    #[test]
    fn an_interrupt_has_no_address() {
        let fault = event(2, 0x008, 0xfee0_0000);
        assert_eq!((fault.address, fault.tried), (Iova::new(0), Tried::Interrupt));
        assert_eq!(fault.reason, FaultReason::Interrupt);
        let entry = event(1, 0x088, 0xfee0_0000);
        assert_eq!(told(entry), (Tried::Interrupt, FaultReason::DeviceTable));
    }

    #[test]
    fn each_event_of_a_device_has_its_reason() {
        use FaultReason::{Command, DeviceTable, Mode, PageTable, Translated};
        assert_eq!(told(event(1, 0x080, 0)), (Tried::Read, DeviceTable));
        assert_eq!(told(event(1, 0x020, 0)), (Tried::Write, DeviceTable));
        for kind in 0..4 {
            assert_eq!(told(event(3, kind << 9 | 0x020, 0)), (Tried::Write, DeviceTable));
            assert_eq!(told(event(4, kind << 9, 0)), (Tried::Read, PageTable));
        }
        assert_eq!(told(event(7, 0, 0x1_0040)), (Tried::Internal, Command));
        assert_eq!(told(event(9, 0, 0)), (Tried::Page, Mode));
        assert_eq!(told(event(0xd, 0x020, 0)), (Tried::Write, Translated));
        assert_eq!(told(event(0xe, 0, 0)), (Tried::Read, DeviceTable));
        for code in [1, 2, 3, 4, 7, 8, 9, 0xd, 0xe] {
            assert_eq!(event(code, 0, 0).device, Some(DEVICE), "{code:#x}");
        }
    }

    #[test]
    fn hardware_errors_tell_what_memory_did() {
        let details = [0, 1, 2, 3].map(|kind| event(3, kind << 9, 0x7000).detail);
        assert_eq!(details[1], "nothing is where its device table entry should be");
        assert_eq!(details[2], "memory refused to give its device table entry");
        assert_eq!(details[3], "memory gave its device table entry with an error");
        assert_eq!(event(3, 1 << 9, 0x7000).address, Iova::new(0x7000));
    }

    #[test]
    fn each_event_of_the_unit_has_no_device() {
        for (code, reason) in [
            (5, FaultReason::Command),
            (6, FaultReason::Command),
            (0xa, FaultReason::Mode),
            (0xb, FaultReason::Mode),
            (0xc, FaultReason::Mode),
            (0xf, FaultReason::Unknown),
        ] {
            let fault = event(code, 0, 0x1_2340);
            assert_eq!((fault.device, fault.tried), (None, Tried::Internal), "{code:#x}");
            assert_eq!(fault.reason, reason, "{code:#x}");
        }
        assert_eq!(event(5, 0, 0x1_2340).address, Iova::new(0x1_2340));
        assert_eq!(event(0xa, 0, 0x1_2340).address, Iova::new(0));
    }

    #[test]
    fn requests_of_a_kind_that_is_not_allowed_are_told_apart() {
        use FaultReason::{InterruptRange, Mode, Translated, Unknown};
        let request = |kind: u64| told(event(8, kind << 9, 0xfd_f800_0000));
        assert_eq!(request(0), (Tried::Access, InterruptRange));
        assert_eq!(request(1), (Tried::Access, Translated));
        assert_eq!(request(2), (Tried::Access, Mode));
        assert_eq!(request(3), (Tried::Write, Mode));
        assert_eq!(request(4), (Tried::Write, InterruptRange));
        assert_eq!(request(5), (Tried::Write, InterruptRange));
        assert_eq!(request(6), (Tried::Write, Mode));
        assert_eq!(request(7), (Tried::Access, Unknown));
        for kind in 0..8 {
            let translation = told(event(8, kind << 9 | 0x100, 0));
            assert_eq!(translation, (Tried::Translation, Translated));
        }
    }

    #[test]
    fn r5_every_event_decodes_and_keeps_its_code_and_flags() {
        for high in 0..=u16::MAX {
            let fault = Event::from_words([u64::from(high) << 48, 0x1000]).decode();
            let code = FaultCode::Amdvi { event: (high >> 12) as u8, flags: high & 0xfff };
            assert_eq!(fault.code, code);
            assert!(!fault.detail.is_empty());
        }
        assert!(!Event::from_words([0x0fff_ffff_ffff_ffff, u64::MAX]).is_written());
        assert!(Event::from_words([1 << 60, 0]).is_written());
    }
}
