//! Device table entries: what one requester may reach (2.2.2, figure 7 and table 7). 256 bits each.
//!
//! # Interrupts pass
//!
//! Interrupts are not remapped: IV is clear in every entry, and the unit forwards a device's messages as they
//! are, of blocked devices too. So a confined device can still raise any interrupt. What firmware asks for the old
//! kinds of interrupt, which legacy controllers send, is set beside it.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use crate::acpi::ivrs::DteSettings;
use crate::field::{frame, from_frame};
use crate::unit::{DomainId, Translation};

/// The domain id of entries that block: no domain's ([`DomainIds`](crate::unit::DomainIds) keeps it back).
pub const BLOCKED_DOMAIN: DomainId = DomainId::new(0);

/// The most levels of a table.
const MOST_LEVELS: u8 = 6;

/// SysMgt = 01b: system management messages pass, untranslated.
const MESSAGES_PASS: u8 = 0b01;

/// Bits 63:0: whether and by which table requests are translated. All that lets a device reach memory is here,
/// so that one store turns an entry over.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TranslationWord {
    /// V, bit 0: the entry counts. If it does not, requests pass untranslated.
    pub valid: bool,
    /// TV, bit 1: this word and the next count. If they do not, requests pass untranslated.
    pub translation_valid: bool,
    #[bits(5)]
    __: u8,
    /// HAD, bits 8:7: whether the unit notes in the tables what was read and written. Never.
    #[bits(2, access = RO)]
    pub notes_access: u8,
    /// Mode, bits 11:9: how many levels the table has. With none, `read` and `write` say alone what passes.
    #[bits(3)]
    pub levels: u8,
    /// Host page table root pointer, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub root: PhysAddr,
    /// Bits 60:52. PPR, GPRP, GIoV, GV, GLX and the root of guest tables: page requests and guest translation.
    #[bits(9)]
    __: u16,
    /// IR, bit 61: may read, as far as the table allows.
    pub read: bool,
    /// IW, bit 62: may write, as far as the table allows.
    pub write: bool,
    __: bool,
}

/// Bits 127:64: what requests are tagged with, and the kinds that are not memory accesses.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DomainWord {
    /// DomainID, bits 79:64.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    pub domain: DomainId,
    /// Bits 95:80. The root of guest tables.
    #[bits(16)]
    __: u16,
    /// I, bit 96: the device may translate by itself and keep what it learned. Never (rule R2).
    #[bits(access = RO)]
    pub device_tlb: bool,
    /// SE, bit 97: one event of the device is logged, and then none. Never.
    #[bits(access = RO)]
    pub events_once: bool,
    /// SA, bit 98: no I/O page fault of the device is logged. Other events are (VirtualBox's `iommuAmdIoPageFaultEventRaise`;
    /// Linux's `DEV_ENTRY_NO_PAGE_FAULT` is the bit).
    pub events_never: bool,
    /// IoCtl, bits 100:99: port I/O through HyperTransport. Never.
    #[bits(2, access = RO)]
    pub port_io: u8,
    /// Cache, bit 101: a hint for devices that translate by themselves.
    #[bits(access = RO)]
    pub cache_hint: bool,
    /// SD, bit 102: the unit does not snoop when it reads the tables. Never.
    #[bits(access = RO)]
    pub no_snoop: bool,
    /// EX, bit 103: the exclusion range counts. Never.
    #[bits(access = RO)]
    pub exclusion: bool,
    /// SysMgt, bits 105:104: what becomes of system management messages. As firmware asks, but for 11b, which
    /// would make memory accesses of them.
    #[bits(2)]
    pub system_management: u8,
    /// Bits 127:106. SATS and the root of guest tables.
    #[bits(22)]
    __: u32,
}

/// Bits 191:128: interrupts.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptWord {
    /// IV, bit 128: interrupts are remapped. Never, so that they pass as they are.
    #[bits(access = RO)]
    pub remapping: bool,
    /// Bits 183:129. The interrupt remapping table, and how guest tables are walked.
    #[bits(55)]
    __: u64,
    /// INITPass, bit 184.
    pub init_pass: bool,
    /// EIntPass, bit 185.
    pub external_interrupt_pass: bool,
    /// NMIPass, bit 186.
    pub nmi_pass: bool,
    __: bool,
    /// IntCtl, bits 189:188: what becomes of fixed interrupts. Only counts with `remapping`.
    #[bits(2, access = RO)]
    pub fixed_interrupts: u8,
    /// Lint0Pass, bit 190.
    pub lint0_pass: bool,
    /// Lint1Pass, bit 191.
    pub lint1_pass: bool,
}

/// A device table entry, as the four words that it is made of. The last, for attributes of guests and of the
/// memory bus, is always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTableEntry {
    /// Whether and by which table requests are translated.
    pub translation: TranslationWord,
    /// Their tag.
    pub domain: DomainWord,
    /// Interrupts.
    pub interrupts: InterruptWord,
}

impl DeviceTableEntry {
    /// The entry that blocks every memory access (rule R1), with what firmware asks for besides. `empty` is a
    /// table in which nothing is mapped.
    pub const fn blocked(settings: DteSettings, empty: PhysAddr) -> Self {
        let domain = DomainWord::new().with_domain(BLOCKED_DOMAIN);
        let domain = match settings.system_management() {
            passing @ 0b00..=0b10 => domain.with_system_management(passing),
            _ => domain,
        };
        let interrupts = InterruptWord::new()
            .with_init_pass(settings.init_pass())
            .with_external_interrupt_pass(settings.external_interrupt_pass())
            .with_nmi_pass(settings.nmi_pass())
            .with_lint0_pass(settings.lint0_pass())
            .with_lint1_pass(settings.lint1_pass());
        Self { translation: TranslationWord::blocked(domain, empty), domain, interrupts }
    }

    /// The entry as four words of a table frame.
    pub const fn words(self) -> [u64; 4] {
        let Self { translation, domain, interrupts } = self;
        [translation.into_bits(), domain.into_bits(), interrupts.into_bits(), 0]
    }
}

impl TranslationWord {
    /// The word that blocks every memory access.
    ///
    /// It allows neither right, and names a table in which nothing is mapped: each blocks by itself. Without a table
    /// the rights alone would have to, and OpenVMM's unit does not look at them then.
    ///
    /// Old units let the system management messages of a device pass only where IW is set (erratum 63 of family
    /// 10h's north bridges, as Linux knows it): where messages are to pass, the table alone blocks what is written.
    pub const fn blocked(domain: DomainWord, empty: PhysAddr) -> Self {
        Self::new()
            .with_valid(true)
            .with_translation_valid(true)
            .with_levels(1)
            .with_root(empty)
            .with_write(domain.system_management() == MESSAGES_PASS)
    }

    /// The word that translates requests by a table of 1 to 6 levels, or `None` for another.
    ///
    /// Every entry with one domain id must name the same table: the unit tags what it caches with the id alone.
    pub const fn translating(translation: Translation) -> Option<Self> {
        if translation.levels == 0 || translation.levels > MOST_LEVELS {
            return None;
        }
        Some(
            Self::new()
                .with_valid(true)
                .with_translation_valid(true)
                .with_levels(translation.levels)
                .with_root(translation.table)
                .with_read(true)
                .with_write(true),
        )
    }

    /// By what it translates requests, under this domain id: `None` for a word that was not made so.
    pub fn translation(self, domain: DomainId) -> Option<Translation> {
        let translation = Translation { domain, table: self.root(), levels: self.levels() };
        (Self::translating(translation) == Some(self)).then_some(translation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: PhysAddr = PhysAddr::new(0x7_0000);
    /// A table of one level, at `EMPTY`, with neither right.
    const BLOCKED: u64 = 0x7_0203;
    const TABLE: PhysAddr = PhysAddr::new(0x000f_edcb_a987_6000);

    fn blocked(settings: u8) -> [u64; 4] {
        DeviceTableEntry::blocked(DteSettings::from_bits(settings), EMPTY).words()
    }

    #[test]
    fn r1_a_blocked_entry_is_valid_and_allows_nothing() {
        assert_eq!(blocked(0), [BLOCKED, 0, 0, 0]);
    }

    #[test]
    fn what_firmware_asks_for_is_set_where_the_spec_puts_it() {
        assert_eq!(blocked(0x01), [BLOCKED, 0, 1 << 56, 0]);
        assert_eq!(blocked(0x02), [BLOCKED, 0, 1 << 57, 0]);
        assert_eq!(blocked(0x04), [BLOCKED, 0, 1 << 58, 0]);
        assert_eq!(blocked(0x40), [BLOCKED, 0, 1 << 62, 0]);
        assert_eq!(blocked(0x80), [BLOCKED, 0, 1 << 63, 0]);
        assert_eq!(blocked(0x20), [BLOCKED, 0x200_0000_0000, 0, 0]);
    }

    #[test]
    fn r1_messages_pass_and_writes_end_in_an_empty_table() {
        // As firmware asks for a south bridge: 0d7h.
        let root_of_one_level = 0x4000_0000_0007_0203;
        assert_eq!(blocked(0xd7), [root_of_one_level, 0x100_0000_0000, 0xc700_0000_0000_0000, 0]);
    }

    #[test]
    fn r5_messages_are_never_made_memory_accesses() {
        assert_eq!(blocked(0x30), [BLOCKED, 0, 0, 0]);
    }

    #[test]
    fn a_translating_word_has_the_spec_s_bits() {
        let word = |levels| {
            let translation = Translation { domain: DomainId::new(7), table: TABLE, levels };
            TranslationWord::translating(translation).map(TranslationWord::into_bits)
        };
        assert_eq!(word(1), Some(0x600f_edcb_a987_6203));
        assert_eq!(word(3), Some(0x600f_edcb_a987_6603));
        assert_eq!(word(4), Some(0x600f_edcb_a987_6803));
        assert_eq!(word(6), Some(0x600f_edcb_a987_6c03));
        // Mode 0 would let everything pass, and 7 is reserved.
        assert_eq!([word(0), word(7), word(255)], [None; 3]);
    }

    #[test]
    fn a_domain_word_has_the_spec_s_bits() {
        let word = DomainWord::new().with_domain(DomainId::new(0xbeef)).with_system_management(1);
        assert_eq!(word.into_bits(), 0x0000_0100_0000_beef);
        assert!(DomainWord::from_bits(1 << 32).device_tlb());
        assert!(DomainWord::from_bits(1 << 33).events_once());
        assert!(DomainWord::from_bits(1 << 34).events_never());
        assert_eq!(DomainWord::from_bits(0b11 << 35).port_io(), 0b11);
        assert!(DomainWord::from_bits(1 << 37).cache_hint());
        assert!(DomainWord::from_bits(1 << 38).no_snoop());
        assert!(DomainWord::from_bits(1 << 39).exclusion());
    }

    #[test]
    fn an_entry_has_these_bytes_in_memory() {
        let translation = Translation { domain: DomainId::new(0x0102), table: EMPTY, levels: 4 };
        let entry = DeviceTableEntry {
            translation: TranslationWord::translating(translation).unwrap(),
            domain: DomainWord::new().with_domain(translation.domain),
            interrupts: InterruptWord::new().with_nmi_pass(true),
        };
        let bytes = entry.words().map(u64::to_le_bytes);
        assert_eq!(bytes[0], [0x03, 0x08, 0x07, 0, 0, 0, 0, 0x60]);
        assert_eq!(bytes[1], [0x02, 0x01, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[2], [0, 0, 0, 0, 0, 0, 0, 0x04]);
        assert_eq!(bytes[3], [0; 8]);
    }
}
