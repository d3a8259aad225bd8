//! What a unit says of itself.

use core::ops::Range;

use bitfield_struct::bitfield;

use super::file::register;
use crate::vtd::context::AddressWidth;

/// Bytes for each unit of the offsets that CAP.FRO and ECAP.IRO give (11.4.2, 11.4.3).
const OFFSET_UNIT: usize = 16;

/// VER_REG, the Version register (11.4.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Version {
    /// MIN: minor version, bits 3:0.
    #[bits(4, access = RO)]
    pub minor: u8,
    /// MAX: major version, bits 7:4. From 6 on, the invalidation registers do nothing (6.5).
    #[bits(4, access = RO)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}
register!(Version: u32, 0x000, Readable);

/// CAP_REG, the Capability register (11.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: number of domains, bits 2:0; see [`Capability::domain_id_bits`].
    #[bits(3, access = RO)]
    pub number_of_domains: u8,
    /// Bit 3. Reserved; in old revisions AFL, advanced fault logging.
    __: bool,
    /// RWBF: software flushes the chipset's write buffers after it changes tables, bit 4 (6.8).
    #[bits(access = RO)]
    pub needs_write_buffer_flush: bool,
    /// PLMR: there is a protected low-memory region, bit 5.
    #[bits(access = RO)]
    pub has_protected_low: bool,
    /// PHMR: there is a protected high-memory region, bit 6.
    #[bits(access = RO)]
    pub has_protected_high: bool,
    /// CM: caching mode, bit 7. Entries that are not present may be cached, so that making one present
    /// needs an invalidation, and domain id 0 belongs to the hardware (6.1).
    #[bits(access = RO)]
    pub caching_mode: bool,
    /// Bit 8 of SAGAW is reserved; it once meant 2 levels.
    __: bool,
    /// SAGAW bit 1: tables of 3 levels, 39 bits, bit 9.
    #[bits(access = RO)]
    pub three_levels: bool,
    /// SAGAW bit 2: tables of 4 levels, 48 bits, bit 10.
    #[bits(access = RO)]
    pub four_levels: bool,
    /// SAGAW bit 3: tables of 5 levels, 57 bits, bit 11.
    #[bits(access = RO)]
    pub five_levels: bool,
    /// Bits 15:12, of which bit 12 is the reserved top of SAGAW.
    #[bits(4)]
    __: u8,
    /// MGAW: one less than the widest address in bits, bits 21:16; see [`Capability::address_bits`].
    #[bits(6, access = RO)]
    pub maximum_guest_address_width: u8,
    /// ZLR: zero-length reads of write-only pages are allowed, bit 22.
    #[bits(access = RO)]
    pub zero_length_reads: bool,
    /// Bit 23. Deprecated.
    __: bool,
    /// FRO: where the fault records are, in units of 16 bytes, bits 33:24; see
    /// [`Capability::fault_records`].
    #[bits(10, access = RO)]
    pub fault_record_offset: u16,
    /// SSLPS bit 0: 2 MiB pages, bit 34.
    #[bits(access = RO)]
    pub pages_of_2m: bool,
    /// SSLPS bit 1: 1 GiB pages, bit 35. Never without 2 MiB pages.
    #[bits(access = RO)]
    pub pages_of_1g: bool,
    /// Bits 38:36, of which 37:36 are the reserved top of SSLPS.
    #[bits(3)]
    __: u8,
    /// PSI: page-selective invalidation, bit 39; see [`Capability::page_selective`].
    #[bits(access = RO)]
    pub page_selective_invalidation: bool,
    /// NFR: one less than the number of fault records, bits 47:40.
    #[bits(8, access = RO)]
    pub last_fault_record: u8,
    /// MAMV: the largest address mask of a page-selective request, bits 53:48.
    #[bits(6, access = RO)]
    pub maximum_address_mask: u8,
    /// DWD: writes can be drained on an invalidation, bit 54.
    #[bits(access = RO)]
    pub drains_writes: bool,
    /// DRD: reads can be drained on an invalidation, bit 55.
    #[bits(access = RO)]
    pub drains_reads: bool,
    /// Bits 62:56: first-stage pages, posted interrupts and enhanced commands, which are not used.
    #[bits(7)]
    __: u8,
    /// ESRTPS: setting the root table pointer invalidates every cache by itself, bit 63.
    #[bits(access = RO)]
    pub root_pointer_invalidates: bool,
}
register!(Capability: u64, 0x008, Readable);

/// Which requests already under way an IOTLB invalidation waits for (6.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Reads.
    pub reads: bool,
    /// Writes.
    pub writes: bool,
}

impl Capability {
    /// How many bits a domain id has, 4 to 16, or `None` for the encoding that is reserved.
    pub const fn domain_id_bits(self) -> Option<u8> {
        match self.number_of_domains() {
            n @ 0..=6 => Some(4 + 2 * n),
            _ => None,
        }
    }

    /// How many domain ids there are, 16 to 65536; zero for the encoding that is reserved.
    ///
    /// In caching mode id 0 is among them and must not be used.
    pub const fn domain_count(self) -> u32 {
        match self.domain_id_bits() {
            Some(bits) => 1 << bits,
            None => 0,
        }
    }

    /// Whether the unit walks tables of this width.
    pub const fn supports(self, width: AddressWidth) -> bool {
        match width {
            AddressWidth::Bits39 => self.three_levels(),
            AddressWidth::Bits48 => self.four_levels(),
            AddressWidth::Bits57 => self.five_levels(),
        }
    }

    /// The table widths the unit walks, narrowest first.
    pub fn widths(self) -> impl DoubleEndedIterator<Item = AddressWidth> {
        AddressWidth::ALL.into_iter().filter(move |&width| self.supports(width))
    }

    /// MGAW in bits, 1 to 64: addresses at or above two to this power are blocked whatever the tables
    /// say.
    pub const fn address_bits(self) -> u8 {
        self.maximum_guest_address_width() + 1
    }

    /// The bytes, from the start of the registers, that hold the fault recording registers.
    pub const fn fault_records(self) -> Range<usize> {
        let start = self.fault_record_offset() as usize * OFFSET_UNIT;
        start..start + self.fault_record_count() as usize * 16
    }

    /// How many fault recording registers there are, 1 to 256.
    pub const fn fault_record_count(self) -> u16 {
        self.last_fault_record() as u16 + 1
    }

    /// The largest address mask of a page-selective invalidation (a request covers two to the power of
    /// its mask pages of 4 KiB), or `None` when the unit has none.
    pub const fn page_selective(self) -> Option<u8> {
        if self.page_selective_invalidation() { Some(self.maximum_address_mask()) } else { None }
    }

    /// What the unit can drain: all of it should be, before memory is reused (rule R2).
    pub const fn drain(self) -> Drain {
        Drain { reads: self.drains_reads(), writes: self.drains_writes() }
    }
}

/// ECAP_REG, the Extended Capability register (11.4.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: the unit snoops the processors' caches when it walks tables, bit 0. Where it does not, tables
    /// are flushed. (The invalidation queue and its status words are snooped always.)
    #[bits(access = RO)]
    pub coherent: bool,
    /// QI: there is an invalidation queue, bit 1.
    #[bits(access = RO)]
    pub queued_invalidation: bool,
    /// DT: device TLBs, bit 2.
    #[bits(access = RO)]
    pub device_tlb: bool,
    /// IR: interrupt remapping, bit 3.
    #[bits(access = RO)]
    pub interrupt_remapping: bool,
    /// EIM: interrupt remapping with 32-bit APIC ids, bit 4.
    #[bits(access = RO)]
    pub extended_interrupt_mode: bool,
    /// Bit 5. Deprecated.
    __: bool,
    /// PT: context entries may pass requests through untranslated, bit 6.
    #[bits(access = RO)]
    pub pass_through: bool,
    /// SC: second-stage entries may force snooping, bit 7.
    #[bits(access = RO)]
    pub snoop_control: bool,
    /// IRO: where the IOTLB registers are, in units of 16 bytes, bits 17:8; see
    /// [`ExtendedCapability::iotlb_registers`].
    #[bits(10, access = RO)]
    pub iotlb_register_offset: u16,
    /// Bits 42:18: handle masks, memory types, nesting, page requests, PASIDs, which are not used.
    #[bits(25)]
    __: u32,
    /// SMTS: scalable-mode translation, bit 43.
    #[bits(access = RO)]
    pub scalable_mode: bool,
    /// Bits 51:44: scalable mode in detail, virtual commands, performance monitoring.
    #[bits(8)]
    __: u8,
    /// ADMS: abort-DMA mode, bit 52 (3.4.4).
    #[bits(access = RO)]
    pub abort_dma_mode: bool,
    /// Bits 61:53.
    #[bits(9)]
    __: u16,
    /// IRREQ: interrupts are blocked while interrupt remapping is off, bit 62.
    #[bits(access = RO)]
    pub requires_interrupt_remapping: bool,
    /// Bit 63. Reserved.
    __: bool,
}
register!(ExtendedCapability: u64, 0x010, Readable);

impl ExtendedCapability {
    /// The bytes, from the start of the registers, that hold IVA_REG and after it IOTLB_REG (11.4.6.2).
    pub const fn iotlb_registers(self) -> Range<usize> {
        let start = self.iotlb_register_offset() as usize * OFFSET_UNIT;
        start..start + 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux prints them at boot on many a desktop with a 6th to 9th generation Core processor.
    const DESKTOP: (u64, u64) = (0x00d2_008c_4066_0462, 0x00f0_50da);

    /// As Linux prints them in a QEMU guest: `intel-iommu,aw-bits=48,caching-mode=on,intremap=on`.
    const QEMU: (u64, u64) = (0x00d2_008c_222f_0686, 0x00f0_0f5a);

    #[test]
    fn version_has_the_major_number_above_the_minor() {
        let version = Version::from_bits(0x0000_0061);
        assert_eq!((version.major(), version.minor()), (6, 1));
    }

    #[test]
    fn a_desktop_unit_reads_as_its_data_sheet_has_it() {
        let capability = Capability::from_bits(DESKTOP.0);
        assert_eq!(capability.domain_id_bits(), Some(8));
        assert_eq!(capability.domain_count(), 256);
        assert!(capability.widths().eq([AddressWidth::Bits48]));
        assert_eq!(capability.address_bits(), 39);
        assert_eq!(capability.fault_records(), 0x400..0x410);
        assert_eq!(capability.page_selective(), Some(18));
        assert_eq!(capability.drain(), Drain { reads: true, writes: true });
        assert!(capability.pages_of_2m() && capability.pages_of_1g());
        assert!(capability.zero_length_reads());
        assert!(capability.has_protected_low() && capability.has_protected_high());
        assert!(!capability.caching_mode() && !capability.needs_write_buffer_flush());

        let extended = ExtendedCapability::from_bits(DESKTOP.1);
        assert!(extended.queued_invalidation() && !extended.coherent());
        assert!(extended.interrupt_remapping() && extended.extended_interrupt_mode());
        assert!(extended.pass_through() && extended.snoop_control());
        assert!(!extended.device_tlb() && !extended.scalable_mode());
        assert_eq!(extended.iotlb_registers(), 0x500..0x510);
    }

    #[test]
    fn a_qemu_unit_reads_as_it_was_asked_for() {
        let capability = Capability::from_bits(QEMU.0);
        assert_eq!(capability.domain_count(), 65536);
        assert!(capability.widths().eq([AddressWidth::Bits39, AddressWidth::Bits48]));
        assert_eq!(capability.address_bits(), 48);
        assert_eq!(capability.fault_records(), 0x220..0x230);
        assert!(capability.caching_mode() && !capability.zero_length_reads());
        assert!(!capability.has_protected_low() && !capability.has_protected_high());

        let extended = ExtendedCapability::from_bits(QEMU.1);
        assert!(extended.queued_invalidation() && extended.interrupt_remapping());
        assert_eq!(extended.iotlb_registers(), 0xf0..0x100);
    }

    #[test]
    fn each_capability_bit_alone_sets_one_field() {
        let only = Capability::from_bits;
        assert!(only(1 << 4).needs_write_buffer_flush());
        assert!(only(1 << 5).has_protected_low());
        assert!(only(1 << 6).has_protected_high());
        assert!(only(1 << 7).caching_mode());
        assert!(only(1 << 9).supports(AddressWidth::Bits39));
        assert!(only(1 << 10).supports(AddressWidth::Bits48));
        assert!(only(1 << 11).supports(AddressWidth::Bits57));
        assert_eq!(only(0x1100).widths().count(), 0);
        assert_eq!(only(0x3f << 16).address_bits(), 64);
        assert!(only(1 << 22).zero_length_reads());
        assert_eq!(only(0x3ff << 24).fault_records().start, 0x3ff0);
        assert!(only(1 << 34).pages_of_2m());
        assert!(only(1 << 35).pages_of_1g());
        assert_eq!(only(1 << 39).page_selective(), Some(0));
        assert_eq!(only(0x3f << 48).page_selective(), None);
        assert_eq!(only(0xff << 40).fault_record_count(), 256);
        assert_eq!(only(1 << 54).drain(), Drain { reads: false, writes: true });
        assert_eq!(only(1 << 55).drain(), Drain { reads: true, writes: false });
        assert!(only(1 << 63).root_pointer_invalidates());
    }

    #[test]
    fn r5_the_reserved_number_of_domains_is_none() {
        assert_eq!(Capability::from_bits(7).domain_id_bits(), None);
        assert_eq!(Capability::from_bits(7).domain_count(), 0);
        assert_eq!(Capability::from_bits(0).domain_count(), 16);
    }

    #[test]
    fn each_extended_capability_bit_alone_sets_one_field() {
        let only = ExtendedCapability::from_bits;
        assert!(only(1).coherent());
        assert!(only(1 << 1).queued_invalidation());
        assert!(only(1 << 2).device_tlb());
        assert!(only(1 << 3).interrupt_remapping());
        assert!(only(1 << 4).extended_interrupt_mode());
        assert!(only(1 << 6).pass_through());
        assert!(only(1 << 7).snoop_control());
        assert_eq!(only(0x3ff << 8).iotlb_registers(), 0x3ff0..0x4000);
        assert!(only(1 << 43).scalable_mode());
        assert!(only(1 << 52).abort_dma_mode());
        assert!(only(1 << 62).requires_interrupt_remapping());
    }
}
