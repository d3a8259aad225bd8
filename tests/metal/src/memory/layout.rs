//! The fixed places in the guest's memory, 256 MiB in all.
//!
//! QEMU puts the firmware's tables at the top of memory and everything of its own that the guest reads
//! below 1 MiB, so that the range from 1 MiB to 224 MiB is the guest's to divide. The first 4 GiB are
//! mapped to themselves: there a physical address is a CPU address too.

use dma_types::PhysAddr;

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it starts.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Range {
    /// The range from `start` to just before `end`.
    const fn new(start: u64, end: u64) -> Self {
        Self { start: PhysAddr::new(start), bytes: end - start }
    }

    /// The first address behind it.
    pub const fn end(self) -> PhysAddr {
        PhysAddr::new(self.start.get() + self.bytes)
    }

    /// Whether `bytes` bytes from `start` on lie in it.
    pub const fn holds(self, start: PhysAddr, bytes: u64) -> bool {
        match start.checked_add(bytes) {
            Some(end) => start.get() >= self.start.get() && end.get() <= self.end().get(),
            None => false,
        }
    }
}

/// The page below the stack. It is not mapped: a stack that overflows faults.
pub const STACK_GUARD: PhysAddr = PhysAddr::new(0x10_0000);
/// The stack.
pub const STACK: Range = Range::new(0x10_1000, 0x1f_0000);
/// The stack on which exceptions are reported, the overflow of the other included.
pub const TRAP_STACK: Range = Range::new(0x1f_0000, 0x20_0000);
/// The image; `link.ld` says so too.
pub const IMAGE: Range = Range::new(0x20_0000, 0x100_0000);
/// The heap.
pub const HEAP: Range = Range::new(0x100_0000, 0x400_0000);
/// Frames for tables that hardware walks.
pub const TABLES: Range = Range::new(0x400_0000, 0x600_0000);
/// Pages for buffers.
pub const BUFFERS: Range = Range::new(0x600_0000, 0xe00_0000);
/// All of them.
pub const ALL: Range = Range::new(0x10_0000, 0xe00_0000);
/// What is mapped to itself, registers included.
pub const IDENTITY: Range = Range::new(0, 1 << 32);

/// Where the CPU sees buffers: behind everything that is mapped to itself.
pub const WINDOW_START: u64 = 64 << 30;
/// How much of them it can see at a time, in bytes, the guard pages included.
pub const WINDOW_BYTES: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_follow_one_another_and_leave_nothing_out() {
        let places = [STACK, TRAP_STACK, IMAGE, HEAP, TABLES, BUFFERS];
        assert_eq!(STACK_GUARD.checked_add(4096), Some(STACK.start));
        for pair in places.windows(2) {
            assert_eq!(pair[0].end(), pair[1].start);
        }
        assert_eq!((ALL.start, ALL.end()), (STACK_GUARD, BUFFERS.end()));
        assert!(BUFFERS.start.is_aligned(2 << 20));
    }

    #[test]
    fn a_range_holds_what_lies_in_it_to_the_last_byte() {
        assert!(TABLES.holds(TABLES.start, TABLES.bytes));
        assert!(!TABLES.holds(TABLES.start, TABLES.bytes + 1));
        assert!(!TABLES.holds(PhysAddr::new(TABLES.start.get() - 1), 1));
        assert!(!TABLES.holds(PhysAddr::new(u64::MAX), 2));
    }
}
