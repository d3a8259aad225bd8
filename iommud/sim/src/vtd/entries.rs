//! Root, context and second-stage entries: VT-d 3.1, chapter 9, legacy mode.

use bitfield_struct::bitfield;

use super::config::VtdConfig;

/// A root entry, 9.1: the lower of its two words.
#[bitfield(u64)]
pub(crate) struct RootEntry {
    pub(crate) present: bool,
    #[bits(11)]
    pub(crate) reserved: u16,
    /// CTP, in pages.
    #[bits(52)]
    pub(crate) context_page: u64,
}

/// The lower word of a context entry, 9.3.
#[bitfield(u64)]
pub(crate) struct ContextLow {
    pub(crate) present: bool,
    /// FPD. It counts in an entry that is not present too.
    pub(crate) fault_disable: bool,
    /// TT.
    #[bits(2)]
    pub(crate) kind: u8,
    pub(crate) reserved: u8,
    /// SLPTPTR, in pages.
    #[bits(52)]
    pub(crate) table_page: u64,
}

/// The upper word of a context entry, 9.3.
#[bitfield(u64)]
pub(crate) struct ContextHigh {
    /// AW: the table has `2 + AW` levels.
    #[bits(3)]
    pub(crate) width: u8,
    #[bits(4)]
    ignored: u8,
    pub(crate) reserved: bool,
    /// DID.
    pub(crate) domain: u16,
    #[bits(40)]
    pub(crate) reserved_high: u64,
}

/// TT values, 9.3.
pub(crate) mod kind {
    /// Untranslated requests go through the second stage; all others are blocked.
    pub(crate) const SECOND_STAGE: u8 = 0;
    /// The same, and translation requests and translated requests are allowed (ECAP.DT).
    pub(crate) const DEVICE_TLB: u8 = 1;
    /// Untranslated requests pass through (ECAP.PT).
    pub(crate) const PASS_THROUGH: u8 = 2;
}

/// A second-stage paging entry, 9.8.
#[bitfield(u64)]
pub(crate) struct PageEntry {
    pub(crate) read: bool,
    pub(crate) write: bool,
    #[bits(5)]
    ignored: u8,
    /// PS, in entries of levels 2 and 3; reserved above, ignored below.
    pub(crate) large: bool,
    #[bits(3)]
    ignored_too: u8,
    /// SNP, in leaves of units with ECAP.SC; reserved otherwise.
    pub(crate) snoop: bool,
    /// The next table or the page, in 4 KiB pages.
    #[bits(40)]
    pub(crate) page: u64,
    #[bits(10)]
    ignored_high: u16,
    /// TM, in leaves of units with ECAP.DT; reserved otherwise.
    pub(crate) transient: bool,
    ignored_top: bool,
}

impl PageEntry {
    /// Whether an entry read at `level` maps a page, and does not point to a table.
    pub(crate) fn is_leaf(self, level: u8) -> bool {
        level == 1 || (level <= 3 && self.large())
    }

    /// Whether a field that is reserved for an entry of this level on this unit is not zero.
    pub(crate) fn has_reserved(self, level: u8, unit: &VtdConfig) -> bool {
        let leaf = self.is_leaf(level);
        let page_bits = if leaf { u32::from(level - 1) * 9 } else { 0 };
        let size_unknown = match level {
            1 => false,
            2 => self.large() && !unit.pages_2m,
            3 => self.large() && !unit.pages_1g,
            _ => self.large(),
        };
        size_unknown
            || (self.snoop() && !(leaf && unit.snoop_control))
            || (self.transient() && !(leaf && unit.device_tlb))
            || self.page() & ((1 << page_bits) - 1) != 0
            || unit.is_beyond_host(self.page() << 12)
    }
}

/// How far an address is shifted to index a table of this level (1 is the lowest).
pub(crate) fn shift(level: u8) -> u32 {
    12 + 9 * (u32::from(level) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_take_literal_words_apart() {
        let root = RootEntry::from_bits(0x1234_5001);
        assert!(root.present());
        assert_eq!((root.context_page(), root.reserved()), (0x12345, 0));
        let low = ContextLow::from_bits(0x1234_500b);
        assert!(low.present() && low.fault_disable());
        assert_eq!((low.kind(), low.table_page(), low.reserved()), (2, 0x12345, 0));
        let high = ContextHigh::from_bits(0x0000_0000_00ab_cd02);
        assert_eq!((high.width(), high.domain()), (2, 0xabcd));
        assert!(!high.reserved() && high.reserved_high() == 0);
        assert!(ContextHigh::from_bits(0x80).reserved());
        let page = PageEntry::from_bits(0x12_3456_7083);
        assert!(page.read() && page.write() && page.large() && !page.snoop());
        assert_eq!(page.page(), 0x1234567);
        assert!(PageEntry::from_bits(0x800).snoop());
        assert!(PageEntry::from_bits(1 << 62).transient());
    }

    #[test]
    fn reserved_fields_depend_on_level_and_unit() {
        let unit = VtdConfig { host_address_bits: 46, ..VtdConfig::default() };
        let reserved = |bits, level| PageEntry::from_bits(bits).has_reserved(level, &unit);
        assert!(!reserved(0x0000_3fff_ffff_f001, 1));
        assert!(reserved(0x0000_4000_0000_0001, 1));
        assert!(reserved(0x801, 1) && reserved(0x801, 2));
        assert!(!reserved(0xbff0_0000_0000_077f, 1), "ignored bits are ignored");
        assert!(!reserved(0x81, 1), "bit 7 is ignored in the lowest level");
        assert!(reserved(0x81, 4) && reserved(0x81, 5));
        assert!(!reserved(0x20_0081, 2) && reserved(0x10_0081, 2));
        assert!(!reserved(0x4000_0081, 3) && reserved(0x20_0081, 3));
        assert!(reserved(1 << 62 | 1, 1));
        let small = VtdConfig { pages_2m: false, pages_1g: false, ..VtdConfig::default() };
        assert!(PageEntry::from_bits(0x81).has_reserved(2, &small));
        assert!(PageEntry::from_bits(0x81).has_reserved(3, &small));
        let snooping = VtdConfig { snoop_control: true, ..VtdConfig::default() };
        assert!(!PageEntry::from_bits(0x801).has_reserved(1, &snooping));
        assert!(PageEntry::from_bits(0x801).has_reserved(2, &snooping), "not a leaf");
    }
}
