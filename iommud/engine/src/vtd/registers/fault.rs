//! The registers that say that something was refused. The records themselves are in
//! [`vtd::fault`](crate::vtd::fault).

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::file::register;

/// FSTS_REG, the Fault Status register (11.4.7.1).
///
/// Writing back what was read clears every condition in it; `pending` and `first_record` follow the
/// records alone.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStatus {
    /// PFO: faults came faster than records were freed, bit 0. None is recorded until it is cleared.
    pub overflow: bool,
    /// PPF: some record holds a fault, bit 1.
    #[bits(access = RO)]
    pub pending: bool,
    /// Bits 3:2. Reserved; in old revisions they belonged to advanced fault logging.
    #[bits(2)]
    __: u8,
    /// IQE: the unit could not make sense of the invalidation queue and has stopped at its head, bit 4
    /// (6.5.2.11).
    pub queue_error: bool,
    /// ICE: a device TLB answered wrongly, bit 5. A device may, though none is ever asked.
    pub completion_error: bool,
    /// ITE: a device TLB did not answer, bit 6. The queue has stopped.
    pub time_out: bool,
    /// Bit 7. Deprecated.
    __: bool,
    /// FRI: the record of the first pending fault, bits 15:8. Only while `pending`.
    #[bits(8, access = RO)]
    pub first_record: u8,
    #[bits(16)]
    __: u16,
}
register!(FaultStatus: u32, 0x034, Readable Writable);

/// FECTL_REG, the Fault Event Control register (11.4.7.2). Written back with one field changed.
///
/// What sets a field of [`FaultStatus`] is an interrupt condition only if none was set before: after an interrupt, all
/// must be clear once before there is a next one.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultEventControl {
    #[bits(30)]
    __: u32,
    /// IP: an interrupt is held back, bit 30.
    #[bits(access = RO)]
    pub pending: bool,
    /// IM: interrupts are held back, bit 31. Set at reset.
    pub masked: bool,
}
register!(FaultEventControl: u32, 0x038, Readable Writable);

/// FEDATA_REG, the Fault Event Data register (11.4.7.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultEventData {
    /// IMD: the data of the interrupt message, bits 15:0.
    #[bits(16)]
    pub message: u16,
    #[bits(16)]
    __: u16,
}
register!(FaultEventData: u32, 0x03c, Readable Writable);

/// FEADDR_REG, the Fault Event Address register (11.4.7.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultEventAddress {
    #[bits(2)]
    __: u8,
    /// MA: the address of the interrupt message without its two lowest bits, bits 31:2.
    #[bits(30)]
    pub message_dword: u32,
}
register!(FaultEventAddress: u32, 0x040, Readable Writable);

impl FaultEventAddress {
    /// The lower half of this address, a multiple of 4.
    pub const fn of(address: PhysAddr) -> Self {
        Self::new().with_message_dword(address.get() as u32 >> 2)
    }
}

/// FEUADDR_REG, the Fault Event Upper Address register (11.4.7.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultEventUpperAddress {
    /// MUA: the upper half of the address of the interrupt message.
    #[bits(32)]
    pub message_upper: u32,
}
register!(FaultEventUpperAddress: u32, 0x044, Readable Writable);

impl FaultEventUpperAddress {
    /// The upper half of this address.
    pub const fn of(address: PhysAddr) -> Self {
        Self::new().with_message_upper((address.get() >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_its_fields_where_the_spec_puts_them() {
        let status = FaultStatus::from_bits(0x0000_0502);
        assert!(status.pending() && !status.overflow());
        assert_eq!(status.first_record(), 5);
        assert_eq!(FaultStatus::new().with_overflow(true).into_bits(), 0x01);
        assert_eq!(FaultStatus::new().with_queue_error(true).into_bits(), 0x10);
        assert_eq!(FaultStatus::new().with_completion_error(true).into_bits(), 0x20);
        assert_eq!(FaultStatus::new().with_time_out(true).into_bits(), 0x40);
        assert_eq!(FaultStatus::from_bits(0xff71).into_bits(), 0xff71, "as read, so written");
    }

    #[test]
    fn event_registers_hold_the_message() {
        assert!(FaultEventControl::from_bits(0x4000_0000).pending());
        let control = FaultEventControl::from_bits(0x8765_4321).with_masked(false);
        assert_eq!(control.into_bits(), 0x0765_4321, "reserved bits are preserved");
        assert_eq!(FaultEventData::new().with_message(0x4031).into_bits(), 0x4031);
        assert_eq!(
            FaultEventAddress::new().with_message_dword(0xfee0_1000 >> 2).into_bits(),
            0xfee0_1000
        );
        assert_eq!(FaultEventUpperAddress::new().with_message_upper(7).into_bits(), 7);
        let address = PhysAddr::new(0x12_fee0_3004);
        assert_eq!(FaultEventAddress::of(address).into_bits(), 0xfee0_3004);
        assert_eq!(FaultEventUpperAddress::of(address).into_bits(), 0x12);
    }
}
