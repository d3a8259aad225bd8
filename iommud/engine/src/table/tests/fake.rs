//! A format that uses all that a format can: a root that grows, tables more than one level down,
//! permissions on the way, and pages of any power of two.
//!
//! A word has, from bit 0: present, readable, writable; in bits 3 to 6 the level of the next table plus one,
//! or zero for a page; in bits 52 to 57 the logarithm of the page. Between is the address. Bits 7 to 10 and
//! 58 to 63 are ignored; 62 and 63 mark where mappings start and end.

use dma_types::PhysAddr;

use crate::table::format::{Entry, Format, Permissions, SpareBits};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Fake {
    pub(super) coherent: bool,
}

impl Format for Fake {
    const SKIPS_LEVELS: bool = true;
    const PRESENT: u64 = 1;
    // As few as AMD's format has: the count is spread over three entries.
    const SPARE: SpareBits = SpareBits { shift: 7, bits: 4 };

    const START: u64 = 1 << 62;
    const END: u64 = 1 << 63;

    fn levels(&self) -> u8 {
        2
    }

    fn max_levels(&self) -> u8 {
        6
    }

    fn page_sizes(&self) -> u64 {
        // Every power of two from 4 KiB to 4 GiB.
        (1 << 33) - (1 << 12)
    }

    fn is_coherent(&self) -> bool {
        self.coherent
    }

    fn decode(&self, _level: u8, word: u64) -> Entry {
        if word & 1 == 0 {
            return Entry::Empty;
        }
        let permissions = Permissions::new(word & 2 != 0, word & 4 != 0);
        let at = PhysAddr::new(word & ADDRESS);
        match word >> 3 & 0xf {
            0 => Entry::Leaf { start: at, order: (word >> 52 & 0x3f) as u32, permissions },
            next => Entry::Table { frame: at, level: next as u8 - 1, permissions },
        }
    }

    fn leaf(&self, _level: u8, order: u32, start: PhysAddr, permissions: Permissions) -> u64 {
        let allowed = u64::from(permissions.read()) << 1 | u64::from(permissions.write()) << 2;
        1 | allowed | start.get() | u64::from(order) << 52
    }

    fn table(&self, _level: u8, frame: PhysAddr, below: u8) -> u64 {
        7 | (u64::from(below) + 1) << 3 | frame.get()
    }
}
