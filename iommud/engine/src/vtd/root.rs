//! The root table of legacy mode: one frame of 256 entries, one for each bus (9.1).

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use crate::field::{frame, from_frame};

/// A root entry: where the context table of one bus is (9.1).
///
/// All zeroes is an entry that is not present: every request from the bus is blocked, and reported.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P: present, bit 0.
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// CTP: the context table, a frame, bits 63:12.
    #[bits(52, from = frame, into = from_frame, default = PhysAddr::new(0))]
    table: PhysAddr,
    #[bits(64)]
    __: u64,
}

impl RootEntry {
    /// The entry of a bus none of whose functions reaches anything.
    pub const BLOCKED: Self = Self::new();

    /// The entry of a bus whose context table is at `table`, a frame.
    pub const fn pointing_to(table: PhysAddr) -> Self {
        Self::new().with_present(true).with_table(table)
    }

    /// The context table of the bus, or `None` if it has none.
    pub const fn context_table(self) -> Option<PhysAddr> {
        if self.present() { Some(self.table()) } else { None }
    }

    /// The entry as two words of a table frame, the lower address first. The second is always zero.
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

    #[test]
    fn a_root_entry_has_these_bytes_in_memory() {
        let entry = RootEntry::pointing_to(PhysAddr::new(0x12_3456_7000));
        let bytes = [
            0x01, 0x70, 0x56, 0x34, 0x12, 0x00, 0x00, 0x00, //
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        assert_eq!(entry.into_bits().to_le_bytes(), bytes);
        assert_eq!(entry.words(), [0x12_3456_7001, 0]);
    }

    #[test]
    fn r1_the_blocked_entry_is_all_zeroes() {
        assert_eq!(RootEntry::BLOCKED.words(), [0, 0]);
        assert_eq!(RootEntry::BLOCKED.context_table(), None);
    }

    #[test]
    fn the_pointer_of_an_absent_entry_is_not_followed() {
        assert_eq!(RootEntry::from_words([0x5000, 0]).context_table(), None);
        let present = RootEntry::from_words([0x5001, 0]).context_table();
        assert_eq!(present, Some(PhysAddr::new(0x5000)));
    }
}
