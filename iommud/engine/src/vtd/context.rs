//! The context tables of legacy mode: one for each bus, with an entry for each function (9.3).

use bitfield_struct::{bitenum, bitfield};
use dma_types::PhysAddr;

use crate::field::{frame, from_frame};
use crate::unit::DomainId;

/// How wide an address a second-stage table translates, which is how many levels it has (3.7).
///
/// The spec calls it AGAW, adjusted guest address width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressWidth {
    /// 39 bits, 3 levels.
    Bits39,
    /// 48 bits, 4 levels.
    Bits48,
    /// 57 bits, 5 levels.
    Bits57,
}

impl AddressWidth {
    /// Every width, narrowest first.
    pub const ALL: [Self; 3] = [Self::Bits39, Self::Bits48, Self::Bits57];

    /// How many levels the table has, 3 to 5.
    pub const fn levels(self) -> u8 {
        match self {
            Self::Bits39 => 3,
            Self::Bits48 => 4,
            Self::Bits57 => 5,
        }
    }

    /// How many bits of address it translates.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bits39 => 39,
            Self::Bits48 => 48,
            Self::Bits57 => 57,
        }
    }

    /// The width of a table of this many levels.
    pub const fn from_levels(levels: u8) -> Option<Self> {
        match levels {
            3 => Some(Self::Bits39),
            4 => Some(Self::Bits48),
            5 => Some(Self::Bits57),
            _ => None,
        }
    }

    /// The AW field for this width.
    const fn field(self) -> u8 {
        self.levels() - 2
    }
}

/// TT: which requests are translated, and how (9.3).
#[bitenum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TranslationType {
    /// Requests are translated; a device TLB gets nothing, and what claims to be translated is blocked.
    /// The only type that the engine writes (rule R2).
    Untranslated = 0b00,
    /// As before, and a device TLB is served and believed.
    DeviceTlb = 0b01,
    /// Requests pass untranslated.
    PassThrough = 0b10,
    /// Reserved.
    #[fallback]
    Reserved = 0b11,
}

/// A context entry: what one function may reach (9.3). Context tables have 256, by device and function.
///
/// All zeroes is an entry that is not present: every request is blocked, and reported.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ContextEntry {
    /// P: present, bit 0.
    pub present: bool,
    /// FPD: faults of this function are not reported, bit 1. It counts in an entry that is not present, too (so QEMU's
    /// `vtd_do_iommu_translate`, whose `vtd_qualified_faults` are those that it hides; Linux's `context_set_fault_enable` has
    /// the bit alone).
    pub faults_hidden: bool,
    /// TT: the translation type, bits 3:2.
    #[bits(2)]
    kind: TranslationType,
    #[bits(8)]
    __: u8,
    /// SSPTPTR: the root of the second-stage table, bits 63:12.
    #[bits(52, from = frame, into = from_frame, default = PhysAddr::new(0))]
    root: PhysAddr,
    /// AW: the width of the table less two levels, bits 66:64.
    #[bits(3)]
    width_field: u8,
    /// Bits 70:67. Ignored by hardware.
    #[bits(4)]
    __: u8,
    __: bool,
    /// DID: the domain id, bits 87:72.
    #[bits(16, from = DomainId::new, into = DomainId::get, default = DomainId::new(0))]
    did: DomainId,
    #[bits(40)]
    __: u64,
}

/// A context entry, for those who read one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The domain id.
    pub domain: DomainId,
    /// The root of the second-stage table.
    pub table: PhysAddr,
    /// Its width.
    pub width: AddressWidth,
}

impl ContextEntry {
    /// The entry that blocks every request.
    pub const BLOCKED: Self = Self::new();

    /// The entry that translates a function's requests by the table at `table`, a frame.
    ///
    /// Every entry with one domain id must name the same table and width: the unit tags what it caches
    /// with the id alone (6.2.2.1).
    pub const fn translating(translation: Translation) -> Self {
        Self::new()
            .with_present(true)
            .with_kind(TranslationType::Untranslated)
            .with_root(translation.table)
            .with_width_field(translation.width.field())
            .with_did(translation.domain)
    }

    /// What the entry says, or `None` if it does not translate by a second-stage table: not present,
    /// pass-through, or something that hardware would refuse.
    pub const fn translation(self) -> Option<Translation> {
        let untranslated = matches!(self.kind(), TranslationType::Untranslated);
        match AddressWidth::from_levels(self.width_field() + 2) {
            Some(width) if self.present() && untranslated => {
                Some(Translation { domain: self.did(), table: self.root(), width })
            }
            _ => None,
        }
    }

    /// The entry as two words of a table frame, the lower address first.
    ///
    /// The second word is written first and the first, which holds P, last; hardware reads both at
    /// once (9).
    pub const fn words(self) -> [u64; 2] {
        let bits = self.into_bits();
        [bits as u64, (bits >> 64) as u64]
    }

    /// The entry that these two words of a table frame are.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self::from_bits((words[1] as u128) << 64 | words[0] as u128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: PhysAddr = PhysAddr::new(0x0000_00ab_cdef_1000);

    #[test]
    fn a_translating_entry_has_the_spec_s_bits() {
        for (width, field) in AddressWidth::ALL.into_iter().zip([1, 2, 3]) {
            let domain = DomainId::new(0x1234);
            let entry = ContextEntry::translating(Translation { domain, table: TABLE, width });
            // P, TT = 00b and the frame; DID in 87:72 and AW in 66:64.
            assert_eq!(entry.words(), [0x0000_00ab_cdef_1001, 0x12_3400 | field]);
        }
    }

    #[test]
    fn a_translating_entry_has_these_bytes_in_memory() {
        let entry = ContextEntry::translating(Translation {
            domain: DomainId::new(0xbeef),
            table: TABLE,
            width: AddressWidth::Bits48,
        });
        let bytes = [
            0x01, 0x10, 0xef, 0xcd, 0xab, 0x00, 0x00, 0x00, //
            0x02, 0xef, 0xbe, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        assert_eq!(entry.into_bits().to_le_bytes(), bytes);
    }

    #[test]
    fn r1_the_blocked_entry_is_all_zeroes() {
        assert_eq!(ContextEntry::BLOCKED.words(), [0, 0]);
        assert_eq!(ContextEntry::BLOCKED.translation(), None);
    }

    #[test]
    fn faults_are_hidden_by_bit_1_of_an_entry_that_is_present_or_not() {
        assert_eq!(ContextEntry::BLOCKED.with_faults_hidden(true).words(), [2, 0]);
        let words = [0x0000_00ab_cdef_1001, 0x12_3402];
        let entry = ContextEntry::from_words(words).with_faults_hidden(true);
        assert_eq!(entry.words(), [words[0] | 2, words[1]]);
        assert_eq!(entry.translation(), ContextEntry::from_words(words).translation());
        assert_eq!(entry.with_faults_hidden(false).words(), words);
    }

    #[test]
    fn an_entry_reads_back_as_it_was_made() {
        let translation =
            Translation { domain: DomainId::new(7), table: TABLE, width: AddressWidth::Bits57 };
        let entry = ContextEntry::translating(translation);
        assert_eq!(ContextEntry::from_words(entry.words()).translation(), Some(translation));
    }

    #[test]
    fn r5_entries_that_hardware_would_refuse_translate_nothing() {
        let good = [0x0000_00ab_cdef_1001, 0x0000_0702];
        assert!(ContextEntry::from_words(good).translation().is_some());
        for bad in [
            [good[0] & !1, good[1]],
            [good[0] | 0b01 << 2, good[1]],
            [good[0] | 0b10 << 2, good[1]],
            [good[0] | 0b11 << 2, good[1]],
            [good[0], 0x0700],
            [good[0], 0x0704],
            [good[0], 0x0707],
        ] {
            assert_eq!(ContextEntry::from_words(bad).translation(), None, "{bad:x?}");
        }
    }
}
