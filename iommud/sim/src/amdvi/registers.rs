//! Register offsets and layouts: AMD 48882, 3.4 (MMIO registers).

use bitfield_struct::bitfield;

/// Offsets in the register window, in bytes.
pub(crate) mod offset {
    pub(crate) const DEVICE_TABLE: u64 = 0x0000;
    pub(crate) const COMMAND_BASE: u64 = 0x0008;
    pub(crate) const EVENT_BASE: u64 = 0x0010;
    pub(crate) const CONTROL: u64 = 0x0018;
    pub(crate) const EXCLUSION_BASE: u64 = 0x0020;
    pub(crate) const EXCLUSION_LIMIT: u64 = 0x0028;
    pub(crate) const EXTENDED_FEATURES: u64 = 0x0030;
    /// The device tables of segments 1 to 7, 8 bytes each.
    pub(crate) const SEGMENTS: u64 = 0x0100;
    pub(crate) const SEGMENTS_END: u64 = 0x0138;
    pub(crate) const COMMAND_HEAD: u64 = 0x2000;
    pub(crate) const COMMAND_TAIL: u64 = 0x2008;
    pub(crate) const EVENT_HEAD: u64 = 0x2010;
    pub(crate) const EVENT_TAIL: u64 = 0x2018;
    pub(crate) const STATUS: u64 = 0x2020;
}

/// The bits of a ring's head and tail that are an offset into it.
pub(crate) const RING_BITS: u64 = 0x7_fff0;

/// Device Table Base Address Register, and those of segments.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct DeviceTable {
    /// Size: the table has this many pages and one more.
    #[bits(9)]
    pub(crate) size: u16,
    #[bits(3)]
    pub(crate) reserved: u8,
    /// DevTabBase, in pages.
    #[bits(40)]
    pub(crate) page: u64,
    #[bits(12)]
    pub(crate) reserved_high: u16,
}

/// Command Buffer and Event Log Base Address Registers.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct RingBase {
    #[bits(12)]
    pub(crate) reserved: u16,
    /// ComBase or EventBase, in pages.
    #[bits(40)]
    pub(crate) page: u64,
    #[bits(4)]
    pub(crate) reserved_middle: u8,
    /// ComLen or EventLen: `2^N` entries of 16 bytes, N from 8 to 15.
    #[bits(4)]
    pub(crate) length: u8,
    #[bits(4)]
    pub(crate) reserved_high: u8,
}

impl RingBase {
    /// The bytes of the ring.
    pub(crate) fn bytes(self) -> u64 {
        16 << self.length()
    }

    /// Whether a reserved field is set, or the length is one of the reserved ones.
    pub(crate) fn is_wrong(self) -> bool {
        let reserved = u64::from(self.reserved())
            | u64::from(self.reserved_middle())
            | u64::from(self.reserved_high());
        reserved != 0 || self.length() < 8
    }
}

/// IOMMU Control Register: the fields that do something here.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct Control {
    /// IommuEn.
    pub(crate) enable: bool,
    /// HtTunEn.
    tunnel: bool,
    /// EventLogEn.
    pub(crate) event_log: bool,
    /// EventIntEn.
    pub(crate) event_interrupt: bool,
    /// ComWaitIntEn.
    pub(crate) wait_interrupt: bool,
    /// InvTimeOut.
    #[bits(3)]
    timeout: u8,
    /// PassPW.
    pass_posted: bool,
    /// ResPassPW.
    response_pass_posted: bool,
    /// Coherent.
    pub(crate) coherent: bool,
    /// Isoc.
    isochronous: bool,
    /// CmdBufEn.
    pub(crate) command_buffer: bool,
    /// Everything from PPRLogEn to DualEventLogEn, none of which this unit has.
    #[bits(21)]
    pub(crate) absent: u32,
    /// DevTblSegEn: `2^N` segments.
    #[bits(3)]
    pub(crate) segments: u8,
    /// Everything above, none of which this unit has.
    #[bits(27)]
    pub(crate) absent_high: u32,
}

/// Exclusion Base Register; the Exclusion Range Limit Register has the page alone.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct Exclusion {
    /// ExEn.
    pub(crate) enable: bool,
    /// Allow: for all devices, not only those whose entries say so.
    pub(crate) allow: bool,
    #[bits(10)]
    __: u16,
    /// The first page, or the last.
    #[bits(40)]
    pub(crate) page: u64,
    #[bits(12)]
    __: u16,
}

/// Extended Feature Register: the fields that a unit here may set.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct ExtendedFeatures {
    /// PreFSup.
    pub(crate) prefetch: bool,
    #[bits(5)]
    __: u8,
    /// IASup.
    pub(crate) invalidate_all: bool,
    #[bits(3)]
    __: u8,
    /// HATS: 0 is 4 levels, 1 is 5, 2 is 6; 3 is reserved.
    #[bits(2)]
    pub(crate) table_depth: u8,
    #[bits(26)]
    __: u32,
    /// DevTblSegSup: up to `2^N` segments.
    #[bits(2)]
    pub(crate) segments: u8,
    #[bits(24)]
    __: u32,
}

/// IOMMU Status Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct Status {
    /// EventOverflow, cleared by writing 1.
    pub(crate) overflow: bool,
    /// EventLogInt, cleared by writing 1.
    pub(crate) event_interrupt: bool,
    /// ComWaitInt, cleared by writing 1.
    pub(crate) wait_interrupt: bool,
    /// EventLogRun.
    pub(crate) event_log_runs: bool,
    /// CmdBufRun.
    pub(crate) command_buffer_runs: bool,
    #[bits(59)]
    __: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let table = DeviceTable::from_bits(0x0000_0012_3456_71ff);
        assert_eq!((table.page(), table.size(), table.reserved()), (0x1234567, 0x1ff, 0));
        let ring = RingBase::from_bits(0x0900_0000_1234_5000);
        assert_eq!((ring.page(), ring.length(), ring.bytes()), (0x12345, 9, 8192));
        assert!(!ring.is_wrong() && RingBase::from_bits(0x0700_0000_1234_5000).is_wrong());
        assert!(RingBase::from_bits(0x8900_0000_1234_5000).is_wrong());
        assert_eq!(Control::new().with_enable(true).into_bits(), 1);
        assert_eq!(Control::new().with_event_log(true).into_bits(), 1 << 2);
        assert_eq!(Control::new().with_event_interrupt(true).into_bits(), 1 << 3);
        assert_eq!(Control::new().with_wait_interrupt(true).into_bits(), 1 << 4);
        assert_eq!(Control::new().with_coherent(true).into_bits(), 1 << 10);
        assert_eq!(Control::new().with_command_buffer(true).into_bits(), 1 << 12);
        assert_eq!(Control::new().with_segments(7).into_bits(), 7 << 34);
        let exclusion = Exclusion::from_bits(0x1234_5003);
        assert!(exclusion.enable() && exclusion.allow() && exclusion.page() == 0x12345);
        let features = ExtendedFeatures::from_bits(1 << 39 | 2 << 10 | 1 << 6 | 1);
        assert!(features.prefetch() && features.invalidate_all());
        assert_eq!((features.table_depth(), features.segments()), (2, 2));
        let status = Status::from_bits(0x1f);
        assert!(status.overflow() && status.event_interrupt() && status.wait_interrupt());
        assert!(status.event_log_runs() && status.command_buffer_runs());
        assert_eq!(Status::new().with_command_buffer_runs(true).into_bits(), 0x10);
    }
}
