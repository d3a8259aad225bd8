//! Pages in numbers that are a power of two: what invalidations name.

use dma_types::{Iova, PAGE_SIZE};

/// The most low bits of a page number that a request could ignore: all of them.
const HIGHEST_ORDER: u8 = 52;

/// A run of 4 KiB pages that an invalidation can name: a power of two of them, aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBlock {
    first: Iova,
    order: u8,
}

impl PageBlock {
    /// Every page.
    pub const EVERYTHING: Self = Self { first: Iova::new(0), order: HIGHEST_ORDER };

    /// Two to the power of `order` pages from `first` on, or `None` if `first` is not aligned to that or
    /// `order` is over 52.
    pub const fn new(first: Iova, order: u8) -> Option<Self> {
        if order > HIGHEST_ORDER {
            return None;
        }
        // For order 52, all of the address space, the block's size does not fit in 64 bits.
        let inside = if order == HIGHEST_ORDER { u64::MAX } else { (PAGE_SIZE << order) - 1 };
        if first.get() & inside == 0 { Some(Self { first, order }) } else { None }
    }

    /// The block of two to the power of `order` pages that holds this page number; `order` under 52.
    #[inline]
    pub(crate) const fn around(page: u64, order: u8) -> Self {
        Self { first: Iova::new((page >> order << order) * PAGE_SIZE), order }
    }

    /// The first address.
    #[inline]
    pub const fn first(self) -> Iova {
        self.first
    }

    /// The logarithm of the number of pages.
    #[inline]
    pub const fn order(self) -> u8 {
        self.order
    }
}

/// A range of page numbers, both ends in it. They have 52 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Pages {
    /// The pages that share a byte with this range, up to the end of the address space. `None` if it is empty.
    #[inline]
    pub(crate) const fn of(start: Iova, bytes: u64) -> Option<Self> {
        let Some(last_byte) = bytes.checked_sub(1) else { return None };
        Some(Self {
            first: start.get() / PAGE_SIZE,
            last: start.get().saturating_add(last_byte) / PAGE_SIZE,
        })
    }

    /// The same of the pages that share a byte with a range.
    #[inline]
    pub(crate) const fn one_block(start: Iova, bytes: u64) -> Option<PageBlock> {
        if bytes == PAGE_SIZE && start.is_aligned(PAGE_SIZE) {
            // As most are.
            return Some(PageBlock { first: start, order: 0 });
        }
        match Self::of(start, bytes) {
            Some(pages) => pages.as_one_block(),
            None => None,
        }
    }

    /// The block that does for all of the pages, if one that is not twice as large does.
    pub(crate) const fn as_one_block(self) -> Option<PageBlock> {
        match self.parts() {
            (part, None) => Some(PageBlock::around(part.first, part.order())),
            (_, Some(_)) => None,
        }
    }

    /// The order of the smallest aligned block that holds the range: up to the highest bit in which its
    /// ends differ.
    pub(crate) const fn order(self) -> u8 {
        (u64::BITS - (self.first ^ self.last).leading_zeros()) as u8
    }

    /// The range, cut in two if that makes the blocks around it smaller.
    ///
    /// A range across the middle of its block is cut there. Each part then ends or starts at the middle,
    /// and is more than half of the block around it.
    pub(crate) const fn parts(self) -> (Self, Option<Self>) {
        let order = self.order();
        if 1 << order <= 2 * (self.last - self.first + 1) {
            return (self, None);
        }
        let half = order - 1;
        let middle = self.last >> half << half;
        let left = Self { first: self.first, last: middle - 1 };
        (left, Some(Self { first: middle, last: self.last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_to_its_size() {
        let block = |address, order| PageBlock::new(Iova::new(address), order).is_some();
        assert!(block(0x1000, 0) && !block(0x1800, 0));
        assert!(block(0x20_0000, 9) && !block(0x10_0000, 9) && !block(0x20_1000, 9));
        assert!(block(0, 52) && !block(1 << 63, 52) && !block(0, 53));
        assert!(block(1 << 63, 51));
        let around = PageBlock::around(0x3ff, 9);
        assert_eq!(Some(around), PageBlock::new(Iova::new(0x20_0000), 9));
    }
}
