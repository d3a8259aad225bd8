//! Events: AMD 48882, 2.5.

use bitfield_struct::bitfield;
use dma_types::SourceId;

/// What an event tells of: the event code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventCode {
    /// ILLEGAL_DEV_TABLE_ENTRY: a reserved field or a meaningless encoding, or there is no entry for the
    /// device.
    IllegalDeviceEntry = 1,
    /// IO_PAGE_FAULT: not present, not allowed, or a page table entry that is wrong.
    PageFault = 2,
    /// DEV_TAB_HARDWARE_ERROR: the device table entry cannot be read.
    DeviceTableError = 3,
    /// PAGE_TAB_HARDWARE_ERROR: a page table cannot be read.
    PageTableError = 4,
    /// ILLEGAL_COMMAND_ERROR: the command buffer has stopped at it.
    IllegalCommand = 5,
    /// COMMAND_HARDWARE_ERROR: the command buffer has stopped, as the command cannot be read.
    CommandError = 6,
    /// IOTLB_INV_TIMEOUT: a device did not answer.
    DeviceTlbTimeout = 7,
    /// INVALID_DEVICE_REQUEST: a request that the device must not make.
    InvalidRequest = 8,
}

/// The Type field of INVALID_DEVICE_REQUEST.
pub(crate) mod invalid_request {
    /// A read, or a write that is not one dword, in the interrupt address range.
    pub(crate) const INTERRUPT_ACCESS: u8 = 0;
    /// The device says that it has translated the address itself, which it may not.
    pub(crate) const PRE_TRANSLATED: u8 = 1;
    /// An interrupt of a device whose interrupts are aborted.
    pub(crate) const INTERRUPT_ABORTED: u8 = 5;
}

/// The Type field of hardware errors: nobody answered at the address.
pub(crate) const MASTER_ABORT: u8 = 1;

/// Bits 63:0 of an event. Not every kind of event has every field.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct EventLow {
    /// DeviceID.
    pub(crate) device: u16,
    __: u16,
    /// DomainID.
    pub(crate) domain: u16,
    /// GN, NX and US, which need GTSup.
    #[bits(3)]
    __: u8,
    /// I: it was an interrupt.
    pub(crate) interrupt: bool,
    /// PR: the page was present.
    pub(crate) present: bool,
    /// RW: it was a write.
    pub(crate) write: bool,
    /// PE: it was not allowed.
    pub(crate) permission: bool,
    /// RZ: a reserved field was not zero.
    pub(crate) reserved: bool,
    /// TR: it was a translation request.
    translation: bool,
    /// Type, where the event has one.
    #[bits(3)]
    pub(crate) kind: u8,
    /// EventCode.
    #[bits(4)]
    code: u8,
}

impl EventLow {
    /// An event with this code.
    pub(crate) fn of(code: EventCode) -> Self {
        Self::new().with_code(code as u8)
    }

    /// An event with this code that a device caused.
    pub(crate) fn by(code: EventCode, source: SourceId) -> Self {
        Self::of(code).with_device(source.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let by = |code| EventLow::by(code, SourceId::new(0x0110));
        let fault = by(EventCode::PageFault).with_domain(7);
        assert_eq!(fault.into_bits(), 0x2000_0007_0000_0110);
        assert_eq!(fault.with_interrupt(true).into_bits() >> 48, 0x2008);
        assert_eq!(fault.with_present(true).into_bits() >> 48, 0x2010);
        assert_eq!(fault.with_write(true).into_bits() >> 48, 0x2020);
        assert_eq!(fault.with_permission(true).into_bits() >> 48, 0x2040);
        assert_eq!(fault.with_reserved(true).into_bits() >> 48, 0x2080);
        assert_eq!(by(EventCode::IllegalDeviceEntry).into_bits(), 0x1000_0000_0000_0110);
        let error = by(EventCode::PageTableError).with_kind(MASTER_ABORT);
        assert_eq!(error.into_bits(), 0x4200_0000_0000_0110);
        let request = by(EventCode::InvalidRequest).with_kind(invalid_request::INTERRUPT_ABORTED);
        assert_eq!(request.into_bits(), 0x8a00_0000_0000_0110);
        assert_eq!(EventLow::of(EventCode::IllegalCommand).into_bits(), 0x5000_0000_0000_0000);
    }
}
