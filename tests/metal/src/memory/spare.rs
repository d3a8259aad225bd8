//! Memory behind the places of the [`layout`](super::layout), on a machine that has more: the heap takes it when its own
//! is used up.

use dma_types::PAGE_SIZE;
use spin::Once;

use super::layout::{ALL, IDENTITY, Range};

static SPARE: Once<Range> = Once::new();

/// Finds it in what the boot loader says of memory.
pub(crate) fn find(memory: &[Range]) {
    if let Some(range) = behind_the_layout(memory) {
        SPARE.call_once(|| range);
    }
}

/// What there is of it, which is mapped to itself and nobody's.
pub fn spare() -> Option<Range> {
    SPARE.get().copied()
}

/// What of the memory that the layout lies in comes behind it, in whole pages.
fn behind_the_layout(memory: &[Range]) -> Option<Range> {
    let around = memory.iter().find(|range| range.holds(ALL.start, ALL.bytes))?;
    let end = around.end().get().min(IDENTITY.end().get()) & !(PAGE_SIZE - 1);
    let bytes = end - ALL.end().get();
    (bytes > 0).then_some(Range { start: ALL.end(), bytes })
}

#[cfg(test)]
mod tests {
    use dma_types::PhysAddr;

    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start: PhysAddr::new(start), bytes: end - start }
    }

    #[test]
    fn it_is_what_comes_behind_the_layout_in_whole_pages() {
        let low = range(0, 0x9_f000);
        let behind = |end| behind_the_layout(&[low, range(0x10_0000, end)]);
        let start = ALL.end().get();
        assert_eq!(behind(start), None);
        assert_eq!(behind(start + 0xfff), None);
        assert_eq!(behind(start + 0x2fff), Some(range(start, start + 0x2000)));
        // What is not mapped to itself is none.
        assert_eq!(behind(8 << 30), Some(range(start, 4 << 30)));
        assert_eq!(behind_the_layout(&[low]), None);
    }
}
