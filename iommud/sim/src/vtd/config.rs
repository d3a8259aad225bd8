//! What a unit can do, and how slowly.

use super::registers::{Capability, ExtendedCapability};
use crate::pace::{Completion, Health};

/// How slow each interface of a unit is. It may be changed while the unit runs, and what is then pending
/// follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Global commands and the protected memory regions.
    pub commands: Completion,
    /// Invalidation by the CCMD and IOTLB registers.
    pub registers: Completion,
    /// Invalidation by the queue.
    pub queue: Completion,
}

/// What a unit can do. The default is a roomy one: 3 and 4 levels, 48 bits, large pages, coherent, with a
/// queue and 8 fault records.
#[derive(Clone, Debug)]
pub struct VtdConfig {
    /// Page-table depths that the unit walks (CAP.SAGAW): any of 3, 4 and 5.
    pub levels: Vec<u8>,
    /// Width of the widest input address in bits (CAP.MGAW + 1).
    pub guest_address_bits: u8,
    /// Width of physical addresses in bits, which no register tells but the DMAR table does.
    pub host_address_bits: u8,
    /// 2 MiB pages (CAP.SLLPS bit 0).
    pub pages_2m: bool,
    /// 1 GiB pages (CAP.SLLPS bit 1).
    pub pages_1g: bool,
    /// What is blocked is recorded.
    pub records_faults: bool,
    /// What is not present is cached too (CAP.CM).
    pub caching_mode: bool,
    /// Tables are read through the CPUs' caches (ECAP.C).
    pub coherent: bool,
    /// There is an invalidation queue (ECAP.QI).
    pub queued_invalidation: bool,
    /// Stores to tables stay in a write buffer until it is flushed (CAP.RWBF).
    pub write_buffer: bool,
    /// Zero-length reads of write-only pages are allowed (CAP.ZLR).
    pub zero_length_read: bool,
    /// Page-selective invalidation (CAP.PSI).
    pub page_selective: bool,
    /// Largest address mask of a page-selective invalidation (CAP.MAMV).
    pub max_address_mask: u8,
    /// Number of fault recording registers, 1 to 256 (CAP.NFR + 1).
    pub fault_records: u16,
    /// Offset of the first of them in bytes, a multiple of 16 (CAP.FRO * 16).
    pub fault_offset: u16,
    /// Offset of the IOTLB registers in bytes, a multiple of 16 (ECAP.IRO * 16).
    pub iotlb_offset: u16,
    /// Width of a domain-id in bits: 4, 6, .. 16 (CAP.ND).
    pub domain_id_bits: u8,
    /// There is a protected low-memory region (CAP.PLMR).
    pub protected_low: bool,
    /// There is a protected high-memory region (CAP.PHMR).
    pub protected_high: bool,
    /// Context entries may say "pass through" (ECAP.PT).
    pub pass_through: bool,
    /// Leaf entries may have SNP set (ECAP.SC).
    pub snoop_control: bool,
    /// Context entries may allow device-TLBs (ECAP.DT). No simulated device has one.
    pub device_tlb: bool,
    /// The unit remaps interrupts (ECAP.IR). The simulator acknowledges the commands and remaps nothing.
    pub interrupt_remapping: bool,
    /// How slow the unit is.
    pub timing: Timing,
    /// Whether the unit answers at all.
    pub health: Health,
}

impl Default for VtdConfig {
    fn default() -> Self {
        Self {
            levels: vec![3, 4],
            guest_address_bits: 48,
            host_address_bits: 46,
            pages_2m: true,
            pages_1g: true,
            records_faults: true,
            caching_mode: false,
            coherent: true,
            queued_invalidation: true,
            write_buffer: false,
            zero_length_read: true,
            page_selective: true,
            max_address_mask: 18,
            fault_records: 8,
            fault_offset: 0x220,
            iotlb_offset: 0xf0,
            domain_id_bits: 16,
            protected_low: true,
            protected_high: true,
            pass_through: true,
            snoop_control: false,
            device_tlb: false,
            interrupt_remapping: false,
            timing: Timing::default(),
            health: Health::default(),
        }
    }
}

impl VtdConfig {
    /// The length of the register window in bytes: as many 4 KiB pages as the registers need.
    pub fn window_bytes(&self) -> u64 {
        let faults = u64::from(self.fault_offset) + 16 * u64::from(self.fault_records);
        let iotlb = u64::from(self.iotlb_offset) + 16;
        faults.max(iotlb).next_multiple_of(4096)
    }

    /// CAP_REG.
    pub(crate) fn capability(&self) -> Capability {
        let widths =
            self.levels.iter().fold(0, |bits, levels| bits | 1 << levels.saturating_sub(2));
        Capability::new()
            .with_domains((self.domain_id_bits.saturating_sub(4) / 2) & 7)
            .with_write_buffer_flush(self.write_buffer)
            .with_protected_low(self.protected_low)
            .with_protected_high(self.protected_high)
            .with_caching_mode(self.caching_mode)
            .with_widths(widths & 0x1f)
            .with_guest_width(self.guest_address_bits.saturating_sub(1) & 0x3f)
            .with_zero_length_read(self.zero_length_read)
            .with_fault_offset((self.fault_offset / 16) & 0x3ff)
            .with_pages_2m(self.pages_2m)
            .with_pages_1g(self.pages_1g)
            .with_page_selective(self.page_selective)
            .with_fault_records(self.fault_records.saturating_sub(1) as u8)
            .with_max_address_mask(self.max_address_mask & 0x3f)
            .with_drain_writes(true)
            .with_drain_reads(true)
    }

    /// ECAP_REG.
    pub(crate) fn extended_capability(&self) -> ExtendedCapability {
        ExtendedCapability::new()
            .with_coherent(self.coherent)
            .with_queued_invalidation(self.queued_invalidation)
            .with_device_tlb(self.device_tlb)
            .with_interrupt_remapping(self.interrupt_remapping)
            .with_pass_through(self.pass_through)
            .with_snoop_control(self.snoop_control)
            .with_iotlb_offset((self.iotlb_offset / 16) & 0x3ff)
            .with_max_handle_mask(if self.interrupt_remapping { 15 } else { 0 })
    }

    /// Whether a physical address has bits that this platform has not.
    pub(crate) fn is_beyond_host(&self, address: u64) -> bool {
        is_beyond(address, self.host_address_bits)
    }

    /// Whether a domain-id has bits that this unit has not.
    pub(crate) fn is_beyond_domains(&self, domain: u16) -> bool {
        is_beyond(domain.into(), self.domain_id_bits)
    }
}

/// Whether `value` needs more than `bits` bits.
pub(crate) fn is_beyond(value: u64, bits: u8) -> bool {
    value.checked_shr(bits.into()).unwrap_or(0) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_unit_reads_as_these_literal_words() {
        let config = VtdConfig::default();
        // NFR 7, PSI, MAMV 18, DRD, DWD; SLLPS 3, FRO 0x22; ZLR, MGAW 47; SAGAW 39 and 48; PxMR; ND 6.
        assert_eq!(config.capability().into_bits(), 0x00d2_078c_226f_0666);
        assert_eq!(config.extended_capability().into_bits(), 0x0000_0000_0000_0f43);
        assert_eq!(config.window_bytes(), 4096);
    }

    #[test]
    fn each_knob_shows_in_its_bit() {
        let config = VtdConfig {
            levels: vec![3, 5],
            guest_address_bits: 57,
            caching_mode: true,
            write_buffer: true,
            zero_length_read: false,
            page_selective: false,
            pages_1g: false,
            coherent: false,
            domain_id_bits: 8,
            fault_records: 256,
            fault_offset: 0xff0,
            iotlb_offset: 0x500,
            device_tlb: true,
            interrupt_remapping: true,
            snoop_control: true,
            ..VtdConfig::default()
        };
        let capability = config.capability().into_bits();
        assert_eq!(capability >> 8 & 0x1f, 0b01010);
        assert_eq!(capability >> 16 & 0x3f, 56);
        assert_eq!(capability & 0x97, 0x92);
        assert_eq!((capability >> 22 & 1, capability >> 39 & 1, capability >> 34 & 0xf), (0, 0, 1));
        assert_eq!((capability >> 40 & 0xff, capability >> 24 & 0x3ff), (255, 0xff));
        assert_eq!(config.extended_capability().into_bits(), 0x00f0_50ce);
        assert_eq!(config.window_bytes(), 0x2000);
    }
}
