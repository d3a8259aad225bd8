//! What a unit that does not snoop sees: memory as it was when each cache line was last written back.
//!
//! VT-d 10.4.3 (ECAP.C = 0): accesses to root, context and second-stage tables are then not coherent.
//! Accesses to the invalidation queue and its status writes are coherent on every unit, and so is DMA.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::memory::Memory;

/// The bytes in a cache line.
const LINE: u64 = 64;

/// What a word reads as whose line was never written back. It is garbage on purpose: present, with every
/// reserved bit set, so that a missing flush shows as a fault.
const NEVER_FLUSHED: u64 = u64::MAX;

/// Copies of the cache lines that were written back, by line number.
#[derive(Debug, Default)]
pub struct Dram {
    lines: RefCell<HashMap<u64, [u64; 8]>>,
}

impl Dram {
    /// Writes back every line that `address..address + bytes` touches.
    pub fn flush(&self, memory: &dyn Memory, address: u64, bytes: u64) {
        let Some(last) = bytes.checked_sub(1).and_then(|more| address.checked_add(more)) else {
            return;
        };
        let mut lines = self.lines.borrow_mut();
        for line in address / LINE..=last / LINE {
            let mut words = [0; 8];
            for (word, at) in words.iter_mut().zip((line * LINE..).step_by(8)) {
                *word = memory.read64(at).unwrap_or(NEVER_FLUSHED);
            }
            lines.insert(line, words);
        }
    }

    /// The word at `address` (a multiple of 8) as a unit that does not snoop reads it.
    fn read64(&self, memory: &dyn Memory, address: u64) -> Option<u64> {
        memory.read64(address)?;
        let lines = self.lines.borrow();
        let word = |words: &[u64; 8]| words[(address % LINE / 8) as usize];
        Some(lines.get(&(address / LINE)).map_or(NEVER_FLUSHED, word))
    }
}

/// The way to memory, coherent or not.
#[derive(Clone, Copy)]
pub struct Bus<'a> {
    /// Memory as CPUs see it.
    pub memory: &'a dyn Memory,
    /// Memory behind the CPUs' caches.
    pub dram: &'a Dram,
}

impl Bus<'_> {
    /// The table word at `address` (a multiple of 8) for a unit that snoops or does not.
    pub(crate) fn table_word(&self, address: u64, coherent: bool) -> Option<u64> {
        if coherent { self.memory.read64(address) } else { self.dram.read64(self.memory, address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HeapMemory;

    #[test]
    fn a_store_shows_once_its_line_is_flushed_and_not_before() {
        let memory = HeapMemory::new(&[(0, 256)]);
        let dram = Dram::default();
        let bus = Bus { memory: &memory, dram: &dram };
        assert_eq!(bus.table_word(8, false), Some(u64::MAX));
        dram.flush(&memory, 0, 64);
        memory.write64(8, 7);
        assert_eq!((bus.table_word(8, true), bus.table_word(8, false)), (Some(7), Some(0)));
        dram.flush(&memory, 64, 64);
        assert_eq!(bus.table_word(8, false), Some(0));
        dram.flush(&memory, 15, 1);
        assert_eq!(bus.table_word(8, false), Some(7));
        assert_eq!(bus.table_word(256, false), None);
    }
}
