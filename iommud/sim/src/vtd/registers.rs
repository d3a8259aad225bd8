//! Register offsets and layouts: VT-d 3.1, 10.4.

use bitfield_struct::bitfield;

/// Offsets in the register window, in bytes. The IOTLB and fault recording registers are elsewhere in each
/// unit: ECAP.IRO and CAP.FRO tell.
pub(crate) mod offset {
    pub(crate) const VERSION: u64 = 0x00;
    pub(crate) const CAPABILITY: u64 = 0x08;
    pub(crate) const EXTENDED_CAPABILITY: u64 = 0x10;
    pub(crate) const GLOBAL_COMMAND: u64 = 0x18;
    pub(crate) const GLOBAL_STATUS: u64 = 0x1c;
    pub(crate) const ROOT_TABLE_ADDRESS: u64 = 0x20;
    pub(crate) const CONTEXT_COMMAND: u64 = 0x28;
    pub(crate) const FAULT_STATUS: u64 = 0x34;
    pub(crate) const FAULT_EVENT: u64 = 0x38;
    pub(crate) const PROTECTED_ENABLE: u64 = 0x64;
    pub(crate) const PROTECTED_LOW_BASE: u64 = 0x68;
    pub(crate) const PROTECTED_LOW_LIMIT: u64 = 0x6c;
    pub(crate) const PROTECTED_HIGH_BASE: u64 = 0x70;
    pub(crate) const PROTECTED_HIGH_LIMIT: u64 = 0x78;
    pub(crate) const QUEUE_HEAD: u64 = 0x80;
    pub(crate) const QUEUE_TAIL: u64 = 0x88;
    pub(crate) const QUEUE_ADDRESS: u64 = 0x90;
    pub(crate) const COMPLETION_STATUS: u64 = 0x9c;
    pub(crate) const COMPLETION_EVENT: u64 = 0xa0;
    pub(crate) const QUEUE_ERROR_RECORD: u64 = 0xb0;
}

/// CAP_REG, 10.4.2.
#[bitfield(u64)]
pub(crate) struct Capability {
    /// ND: domain-ids have `4 + 2 * ND` bits.
    #[bits(3)]
    pub(crate) domains: u8,
    /// AFL, never set here.
    advanced_fault_log: bool,
    /// RWBF.
    pub(crate) write_buffer_flush: bool,
    /// PLMR.
    pub(crate) protected_low: bool,
    /// PHMR.
    pub(crate) protected_high: bool,
    /// CM.
    pub(crate) caching_mode: bool,
    /// SAGAW: bit 1 is 39 bits (3 levels), bit 2 is 48 (4), bit 3 is 57 (5).
    #[bits(5)]
    pub(crate) widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW, less one.
    #[bits(6)]
    pub(crate) guest_width: u8,
    /// ZLR.
    pub(crate) zero_length_read: bool,
    __: bool,
    /// FRO, in units of 16 bytes.
    #[bits(10)]
    pub(crate) fault_offset: u16,
    /// SLLPS bit 0: 2 MiB pages.
    pub(crate) pages_2m: bool,
    /// SLLPS bit 1: 1 GiB pages.
    pub(crate) pages_1g: bool,
    #[bits(3)]
    __: u8,
    /// PSI.
    pub(crate) page_selective: bool,
    /// NFR: number of fault recording registers, less one.
    pub(crate) fault_records: u8,
    /// MAMV.
    #[bits(6)]
    pub(crate) max_address_mask: u8,
    /// DWD.
    pub(crate) drain_writes: bool,
    /// DRD.
    pub(crate) drain_reads: bool,
    __: u8,
}

/// ECAP_REG, 10.4.3.
#[bitfield(u64)]
pub(crate) struct ExtendedCapability {
    /// C.
    pub(crate) coherent: bool,
    /// QI.
    pub(crate) queued_invalidation: bool,
    /// DT.
    pub(crate) device_tlb: bool,
    /// IR.
    pub(crate) interrupt_remapping: bool,
    /// EIM.
    extended_interrupts: bool,
    __: bool,
    /// PT.
    pub(crate) pass_through: bool,
    /// SC.
    pub(crate) snoop_control: bool,
    /// IRO, in units of 16 bytes.
    #[bits(10)]
    pub(crate) iotlb_offset: u16,
    #[bits(2)]
    __: u8,
    /// MHMV.
    #[bits(4)]
    pub(crate) max_handle_mask: u8,
    #[bits(40)]
    __: u64,
}

/// GCMD_REG, 10.4.4; GSTS_REG, 10.4.5, has the status of each command in the same bit.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(crate) struct Global {
    #[bits(23)]
    __: u32,
    /// CFI.
    pub(crate) compatibility_interrupts: bool,
    /// SIRTP.
    pub(crate) set_interrupt_table: bool,
    /// IRE.
    pub(crate) interrupt_remapping: bool,
    /// QIE.
    pub(crate) queued_invalidation: bool,
    /// WBF.
    pub(crate) write_buffer_flush: bool,
    /// EAFL.
    advanced_fault_log: bool,
    /// SFL.
    set_fault_log: bool,
    /// SRTP.
    pub(crate) set_root_table: bool,
    /// TE.
    pub(crate) translation: bool,
}

/// RTADDR_REG, 10.4.6.
#[bitfield(u64)]
pub(crate) struct RootTableAddress {
    #[bits(10)]
    __: u16,
    /// TTM: 00b is legacy mode.
    #[bits(2)]
    pub(crate) mode: u8,
    /// RTA, in pages.
    #[bits(52)]
    pub(crate) page: u64,
}

/// CCMD_REG, 10.4.7.
#[bitfield(u64)]
pub(crate) struct ContextCommand {
    /// DID.
    pub(crate) domain: u16,
    /// SID.
    pub(crate) source: u16,
    /// FM.
    #[bits(2)]
    pub(crate) function_mask: u8,
    #[bits(25)]
    __: u32,
    /// CAIG.
    #[bits(2)]
    pub(crate) actual: u8,
    /// CIRG: 1 global, 2 domain, 3 device.
    #[bits(2)]
    pub(crate) requested: u8,
    /// ICC.
    pub(crate) busy: bool,
}

/// IOTLB_REG, 10.4.8.1.
#[bitfield(u64)]
pub(crate) struct IotlbCommand {
    __: u32,
    /// DID.
    pub(crate) domain: u16,
    /// DW.
    drain_writes: bool,
    /// DR.
    drain_reads: bool,
    #[bits(7)]
    __: u8,
    /// IAIG.
    #[bits(2)]
    pub(crate) actual: u8,
    __: bool,
    /// IIRG: 1 global, 2 domain, 3 page.
    #[bits(2)]
    pub(crate) requested: u8,
    __: bool,
    /// IVT.
    pub(crate) busy: bool,
}

/// IVA_REG, 10.4.8.2; the upper half of an IOTLB invalidation descriptor has the same fields.
#[bitfield(u64)]
pub(crate) struct InvalidateAddress {
    /// AM: `2^AM` pages, aligned to as much.
    #[bits(6)]
    pub(crate) mask: u8,
    /// IH: only leaf entries have changed.
    pub(crate) leaf_only: bool,
    #[bits(5)]
    pub(crate) reserved: u8,
    /// ADDR, in pages.
    #[bits(52)]
    pub(crate) page: u64,
}

/// FSTS_REG, 10.4.9.
#[bitfield(u32)]
pub(crate) struct FaultStatus {
    /// PFO.
    pub(crate) overflow: bool,
    /// PPF.
    pub(crate) pending: bool,
    #[bits(2)]
    __: u8,
    /// IQE.
    pub(crate) queue_error: bool,
    /// ICE.
    pub(crate) completion_error: bool,
    /// ITE.
    pub(crate) timeout_error: bool,
    __: bool,
    /// FRI.
    pub(crate) record: u8,
    __: u16,
}

/// The upper half of FRCD_REG, 10.4.14; the lower half is the page that was asked for.
#[bitfield(u64)]
pub(crate) struct FaultRecordHigh {
    /// SID.
    pub(crate) source: u16,
    __: u16,
    /// FR.
    pub(crate) reason: u8,
    #[bits(22)]
    __: u32,
    /// T: set for a read.
    pub(crate) read: bool,
    /// F.
    pub(crate) fault: bool,
}

/// FECTL_REG, 10.4.10, and IECTL_REG, 10.4.25.
#[bitfield(u32)]
pub(crate) struct EventControl {
    #[bits(30)]
    __: u32,
    /// IP.
    pub(crate) pending: bool,
    /// IM.
    pub(crate) masked: bool,
}

/// PMEN_REG, 10.4.16.
#[bitfield(u32)]
pub(crate) struct ProtectedEnable {
    /// PRS.
    pub(crate) status: bool,
    #[bits(30)]
    __: u32,
    /// EPM.
    pub(crate) enable: bool,
}

/// IQA_REG, 10.4.23.
#[bitfield(u64)]
pub(crate) struct QueueAddress {
    /// QS: the queue has `2^QS` pages.
    #[bits(3)]
    pub(crate) size: u8,
    __: u8,
    /// DW: 256-bit descriptors, which only scalable mode has.
    pub(crate) wide: bool,
    /// IQA, in pages.
    #[bits(52)]
    pub(crate) page: u64,
}

/// IQERCD_REG, which revisions after 3.1 have at an offset that was reserved.
#[bitfield(u64)]
pub(crate) struct QueueErrorRecord {
    /// IQEI.
    #[bits(4)]
    pub(crate) queue_error: u8,
    #[bits(28)]
    __: u32,
    /// ITESID.
    pub(crate) timeout_source: u16,
    /// ICESID.
    pub(crate) completion_source: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let capability = Capability::from_bits(0x00d2_008c_2266_0462);
        assert_eq!((capability.domains(), capability.widths()), (2, 0b00100));
        assert!(capability.protected_low() && capability.protected_high());
        assert!(!capability.write_buffer_flush() && !capability.caching_mode());
        assert_eq!((capability.guest_width(), capability.fault_offset()), (0x26, 0x22));
        assert!(capability.zero_length_read() && capability.page_selective());
        assert!(capability.pages_2m() && capability.pages_1g());
        assert_eq!((capability.fault_records(), capability.max_address_mask()), (0, 18));
        assert!(capability.drain_writes() && capability.drain_reads());

        let extended = ExtendedCapability::from_bits(0x00f0_0f5e);
        assert!(!extended.coherent() && extended.queued_invalidation());
        assert!(extended.device_tlb() && extended.interrupt_remapping());
        assert!(extended.pass_through() && !extended.snoop_control());
        assert_eq!((extended.iotlb_offset(), extended.max_handle_mask()), (0x0f, 15));

        assert_eq!(Global::new().with_translation(true).into_bits(), 1 << 31);
        assert_eq!(Global::new().with_set_root_table(true).into_bits(), 1 << 30);
        assert_eq!(Global::new().with_write_buffer_flush(true).into_bits(), 1 << 27);
        assert_eq!(Global::new().with_queued_invalidation(true).into_bits(), 1 << 26);
        assert_eq!(Global::new().with_compatibility_interrupts(true).into_bits(), 1 << 23);

        let context = ContextCommand::from_bits(0xf800_0003_0010_0007);
        assert_eq!((context.domain(), context.source(), context.function_mask()), (7, 0x10, 3));
        assert_eq!((context.actual(), context.requested(), context.busy()), (3, 3, true));
        let iotlb = IotlbCommand::from_bits(0xb603_0007_0000_0000);
        assert_eq!((iotlb.domain(), iotlb.requested(), iotlb.actual()), (7, 3, 3));
        assert!(iotlb.busy());
        let address = InvalidateAddress::from_bits(0x1234_5049);
        assert_eq!((address.page(), address.mask(), address.leaf_only()), (0x12345, 9, true));

        let status = FaultStatus::from_bits(0x0573);
        assert!(status.overflow() && status.pending() && status.queue_error());
        assert!(status.completion_error() && status.timeout_error());
        assert_eq!(status.record(), 5);
        let record = FaultRecordHigh::from_bits(0xc000_0006_0000_0010);
        assert_eq!((record.source(), record.reason()), (0x10, 6));
        assert!(record.read() && record.fault());
        let queue = QueueAddress::from_bits(0x1234_5802);
        assert_eq!((queue.page(), queue.size(), queue.wide()), (0x12345, 2, true));
        assert_eq!(EventControl::new().with_masked(true).into_bits(), 1 << 31);
        assert_eq!(ProtectedEnable::new().with_enable(true).into_bits(), 1 << 31);
        assert_eq!(ProtectedEnable::new().with_status(true).into_bits(), 1);
    }
}
