//! Fault records, decoded: which function tried what, where, and why it was refused (7.2.1, 11.4.7.6).

use bitfield_struct::bitfield;
use dma_types::{Iova, SourceId};

use crate::fault::{Fault, FaultCode, FaultReason, Tried};
use crate::field::{from_page, page};

/// FRCD_REG, a Fault Recording register (11.4.7.6).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI: the page of the address that was asked for, bits 63:12. For a refused interrupt, its index
    /// in bits 63:48, or nothing.
    #[bits(52, from = page, into = from_page, default = Iova::new(0))]
    pub page: Iova,
    /// SID: the function that asked, bits 79:64.
    #[bits(16, from = SourceId::new, into = SourceId::get, default = SourceId::new(0))]
    pub source: SourceId,
    #[bits(12)]
    __: u16,
    /// T2: with T1, what was asked, bit 92. Reserved, and zero, in old units.
    pub type_2: bool,
    /// Bits 95:93: privilege, execute and whether there is a PASID. Zero in legacy mode.
    #[bits(3)]
    __: u8,
    /// FR: the reason, bits 103:96.
    #[bits(8, from = Reason, into = Reason::code, default = Reason(0))]
    pub reason: Reason,
    /// Bits 123:104: the PASID. Zero in legacy mode.
    #[bits(20)]
    __: u32,
    /// AT: whether the request claimed to be translated already, bits 125:124.
    #[bits(2)]
    pub address_type: u8,
    /// T1: with T2, what was asked, bit 126.
    pub type_1: bool,
    /// F: the record holds a fault, bit 127. Cleared by writing 1.
    pub fault: bool,
}

impl FaultRecord {
    /// The fault that the record holds. Only for a record with `fault` set: what else it holds then is
    /// not defined.
    pub const fn decode(self) -> Fault {
        let reason = self.reason();
        let tried = if reason.is_of_interrupts() {
            Tried::Interrupt
        } else {
            match (self.type_1(), self.type_2()) {
                (false, false) => Tried::Write,
                (false, true) => Tried::Page,
                (true, false) => Tried::Read,
                (true, true) => Tried::Atomic,
            }
        };
        let address = if matches!(tried, Tried::Interrupt) { Iova::new(0) } else { self.page() };
        let (neutral, detail) = reason.meaning();
        Fault {
            device: Some(self.source()),
            address,
            tried,
            reason: neutral,
            code: FaultCode::Vtd(reason.code()),
            detail,
        }
    }
}

/// FR: why a request was refused (Table 30 in 7.1.3, Table 15 in 5.1.4.1). New units may have new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// The number.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Whether this is a reason to refuse an interrupt (5.1.4.1).
    pub const fn is_of_interrupts(self) -> bool {
        matches!(self.0, 0x20..=0x2f)
    }

    /// What it means, and its words. Of the modes that the engine never turns on, too: firmware may have
    /// left one on, and its faults behind.
    pub const fn meaning(self) -> (FaultReason, &'static str) {
        use FaultReason::{
            BeyondWidth, DeviceTable, Interrupt, InterruptRange, Mode, NoDomain, NotReadable,
            NotWritable, PageTable, Translated, Unknown,
        };
        match self.0 {
            // Legacy mode: root and context tables, second-stage tables, and the rest (LRT, LCT, LSS, LGN).
            0x01 => (NoDomain, "no device on its bus is attached to a domain"),
            0x02 => (NoDomain, "it is attached to no domain"),
            0x03 => (DeviceTable, "its context entry names a table that the unit cannot walk"),
            0x04 => (BeyondWidth, "the address has more bits than its tables translate"),
            0x05 => (NotWritable, "the page is not mapped for writing"),
            0x06 => (NotReadable, "the page is not mapped for reading"),
            0x07 => (PageTable, "the unit could not read an entry of its page table"),
            0x08 => (DeviceTable, "the unit could not read the root table"),
            0x09 => (DeviceTable, "the unit could not read its context table"),
            0x0a => (DeviceTable, "reserved bits are set in its root entry"),
            0x0b => (DeviceTable, "reserved bits are set in its context entry"),
            0x0c => (PageTable, "reserved bits are set in an entry of its page table"),
            0x0d => (Translated, "it may not use addresses that it translated itself"),
            0x0e => (InterruptRange, "the page is mapped to where interrupts go"),

            // Interrupts (5.1.4.1).
            0x20 => (Interrupt, "reserved bits are set in its message"),
            0x21 => (Interrupt, "its index is beyond the interrupt remapping table"),
            0x22 => (Interrupt, "its entry in the interrupt remapping table is not present"),
            0x23 => (Interrupt, "the unit could not read the interrupt remapping table"),
            0x24 => (Interrupt, "reserved bits are set in its interrupt remapping entry"),
            0x25 => (Interrupt, "interrupts of the old format are blocked"),
            0x26 => (Interrupt, "its interrupt remapping entry belongs to another device"),
            0x27 => (Interrupt, "the unit could not read the posted-interrupt descriptor"),
            0x28 => (Interrupt, "reserved bits are set in the posted-interrupt descriptor"),
            0x29 => (InterruptRange, "what it sent to where interrupts go is no interrupt"),
            0x2a => {
                (Interrupt, "the unit remaps interrupts in extended mode alone, and that is off")
            }
            0x2b => (Interrupt, "the unit takes interrupts only while it remaps them"),
            0x2c..=0x2f => (Interrupt, "for a reason that this version does not know"),

            // The root table address register (RTA).
            0x30 => (DeviceTable, "the root table is set to a mode that the unit does not have"),
            0x31 => (Mode, "its request has a process address space id, which is not in use"),
            0x32 => (Mode, "its page request came while page requests are not in use"),
            0x33 => (NoDomain, "the unit is set to block every request"),
            0x34 => (Mode, "it asked for permission to execute"),

            // Scalable mode: root, context, PASID directory and PASID tables (SRT, SCT, SPD, SPT).
            0x38 => (DeviceTable, "the unit could not read the scalable-mode root table"),
            0x39 => (NoDomain, "its scalable-mode root entry is not present"),
            0x3a => (DeviceTable, "reserved bits are set in its scalable-mode root entry"),
            0x40 => (DeviceTable, "the unit could not read its scalable-mode context table"),
            0x41 => (NoDomain, "its scalable-mode context entry is not present"),
            0x42 => (DeviceTable, "reserved bits are set in its scalable-mode context entry"),
            0x43 => (DeviceTable, "its scalable-mode context entry contradicts itself"),
            0x44 => (Translated, "its scalable-mode context entry denies it a device TLB"),
            0x45 => (Mode, "its scalable-mode context entry allows no process address space ids"),
            0x46 => (Mode, "its process address space id is beyond its directory"),
            0x47 => (Mode, "its scalable-mode context entry allows no page requests"),
            0x48 => (Mode, "its process address space id is the one for requests without"),
            0x49 => {
                (Translated, "it may not put a process address space id on a translated address")
            }
            0x50 => (DeviceTable, "the unit could not read its PASID directory"),
            0x51 => (NoDomain, "its PASID directory entry is not present"),
            0x52 => (DeviceTable, "reserved bits are set in its PASID directory entry"),
            0x58 => (DeviceTable, "the unit could not read its PASID table"),
            0x59 => (NoDomain, "its PASID table entry is not present"),
            0x5a => (DeviceTable, "reserved bits are set in its PASID table entry"),
            0x5b => (DeviceTable, "its PASID table entry names tables that the unit cannot walk"),
            0x5c => (Mode, "it asked for permission to execute"),
            0x5d => (Mode, "it asked for a supervisor's privilege, and may not"),
            0x60 => (Translated, "the translated address is beyond the host permission table"),

            // Scalable mode: first-stage tables (SFS).
            0x70 => (PageTable, "the unit could not read an entry of its first-stage table"),
            0x71 => (NotReadable, "the page is not mapped in its first-stage table"),
            0x72 => (PageTable, "reserved bits are set in an entry of its first-stage table"),
            0x73 => (PageTable, "the unit could not read the top of its first-stage table"),
            0x74 => {
                (BeyondWidth, "its first-stage table leads beyond what the second stage translates")
            }
            0x75 => (PageTable, "the top of its first-stage table is not mapped for reading"),
            0x76 => (PageTable, "part of its first-stage table is not mapped for reading"),
            0x77 => (PageTable, "part of its first-stage table is not mapped for writing"),
            0x90 => {
                (PageTable, "the unit may not mark a first-stage page as used without snooping")
            }
            0x91 => (PageTable, "the unit could not mark a first-stage page as used"),

            // Scalable mode: second-stage tables (SSS).
            0x78 => (PageTable, "the unit could not read an entry of its second-stage table"),
            0x79 => (NotReadable, "the page is not mapped in its second-stage table"),
            0x7a => (PageTable, "reserved bits are set in an entry of its second-stage table"),
            0x7b => (PageTable, "the unit could not read the top of its second-stage table"),
            0x7c => {
                (PageTable, "the unit may not mark a second-stage page as used without snooping")
            }
            0x7d => (PageTable, "the unit could not mark a second-stage page as used"),

            // Scalable mode: the rest (SGN).
            0x80 => (BeyondWidth, "the address is not canonical"),
            0x81 => (Mode, "the page is the supervisor's"),
            0x82 => (Mode, "the page is not mapped for execution"),
            0x83 => (BeyondWidth, "the address has more bits than memory"),
            0x84 => (BeyondWidth, "the address has more bits than its tables translate"),
            0x85 => (NotWritable, "the page is not mapped for writing"),
            0x86 => (NotReadable, "the page is not mapped for reading"),
            0x87 => (InterruptRange, "the page is mapped to where interrupts go"),
            0x89 => (Mode, "its process address space id has more bits than the unit takes"),

            // Host permission tables (HPT).
            0xa0 => (Translated, "the unit could not read an entry of the host permission table"),
            0xa1 => (Translated, "reserved bits are set in an entry of the host permission table"),
            0xa2 => (Translated, "the unit could not read the top of the host permission table"),
            0xa3 => (Translated, "the host permission table allows it nothing at the address"),
            0xa4 => (Translated, "the host permission table does not allow it to write there"),
            0xa5 => (Translated, "the host permission table does not allow it to read there"),

            _ => (Unknown, "for a reason that this version does not know"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record from its two halves as a unit lays them out.
    fn record(low: u64, high: u64) -> FaultRecord {
        FaultRecord::from_bits(u128::from(high) << 64 | u128::from(low))
    }

    #[test]
    fn a_denied_write_is_decoded_with_device_and_page() {
        let fault = record(0xdead_b000, 0x8000_0005_0000_0010).decode();
        assert_eq!(fault.device, Some(SourceId::new(0x0010)));
        assert_eq!(fault.address, Iova::new(0xdead_b000));
        assert_eq!((fault.tried, fault.reason), (Tried::Write, FaultReason::NotWritable));
        assert_eq!(fault.detail, "the page is not mapped for writing");
    }

    #[test]
    fn a_denied_read_is_decoded_with_all_of_a_high_page() {
        let fault = record(0xffff_ffff_ffff_f000, 0xc000_0006_0000_fffa).decode();
        assert_eq!(fault.device, Some(SourceId::new(0xfffa)));
        assert_eq!(fault.address, Iova::new(0xffff_ffff_ffff_f000));
        assert_eq!((fault.tried, fault.reason), (Tried::Read, FaultReason::NotReadable));
    }

    #[test]
    fn the_two_type_bits_say_what_was_tried() {
        let tried = |high: u64| record(0, high | 0x8000_0002_0000_0000).decode().tried;
        assert_eq!(tried(0), Tried::Write);
        assert_eq!(tried(1 << 62), Tried::Read);
        assert_eq!(tried(1 << 28), Tried::Page);
        assert_eq!(tried(1 << 62 | 1 << 28), Tried::Atomic);
    }

    #[test]
    fn fields_of_other_modes_do_not_disturb() {
        // PASID 0xfffff, PP, EXE, PRIV and AT all set.
        let fault = record(0x1000, 0xf0ff_fff6_e000_0010 & !(1 << 62) | 1 << 63).decode();
        assert_eq!(fault.device, Some(SourceId::new(0x0010)));
        assert_eq!(fault.code, FaultCode::Vtd(0xf6));
        assert_eq!(fault.tried, Tried::Write);
    }

    #[test]
    fn an_interrupt_has_no_address() {
        let fault = record(0x0007_0000_0000_0000, 0x8000_0022_0000_0010).decode();
        assert_eq!((fault.tried, fault.address), (Tried::Interrupt, Iova::new(0)));
        assert_eq!(fault.reason, FaultReason::Interrupt);
    }

    #[test]
    fn r5_an_unknown_reason_keeps_its_number() {
        for code in 0..=u8::MAX {
            let fault = record(0, u64::from(code) << 32 | 1 << 63).decode();
            assert_eq!(fault.code, FaultCode::Vtd(code));
            assert!(!fault.detail.is_empty());
        }
        let fault = record(0, 0x8000_00ff_0000_0010).decode();
        assert_eq!(fault.reason, FaultReason::Unknown);
        assert_eq!(fault.detail, "for a reason that this version does not know");
    }

    #[test]
    fn what_matters_to_a_driver_has_its_own_reason() {
        let reason = |code| Reason(code).meaning().0;
        assert_eq!(reason(0x01), FaultReason::NoDomain);
        assert_eq!(reason(0x02), FaultReason::NoDomain);
        assert_eq!(reason(0x04), FaultReason::BeyondWidth);
        assert_eq!(reason(0x0c), FaultReason::PageTable);
        assert_eq!(reason(0x0d), FaultReason::Translated);
        assert_eq!(reason(0x0e), FaultReason::InterruptRange);
        assert_eq!(reason(0x00), FaultReason::Unknown);
        assert_eq!(reason(0x0f), FaultReason::Unknown);
    }
}
