//! Tables that a daemon has left half written.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use crate::amdvi::page_table::AmdV1;
use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrames};
use crate::table::format::{Format, shift};
use crate::table::{Extent, NotATable, PageTable, Told};
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const PAGE: u64 = 4096;

/// Four mappings, the first three side by side: of small pages, of pages that fill several entries where there are such,
/// of both, and of two tables.
const MAPPINGS: [(u64, u64); 4] =
    [(0x1000, 3 * PAGE), (0x4000, 4 * PAGE), (0x8000, 9 * PAGE), (0x3f_e000, 5 * PAGE)];

struct Left<F> {
    frames: FakeFrames,
    table: PageTable<F>,
}

impl<F: Format> Left<F> {
    fn new(format: F) -> Self {
        let mut frames = FakeFrames::new(32);
        let mut table = PageTable::new(format, &mut frames).unwrap();
        for (iova, bytes) in MAPPINGS {
            let memory = [Segment { start: PhysAddr::new(0x100_0000 + iova), bytes }];
            table.map(&mut frames, Iova::new(iova), &memory, Access::ReadWrite).unwrap();
        }
        Self { frames, table }
    }

    /// The entry of a page, in the lowest table.
    fn slot(&self, iova: u64) -> (PhysAddr, usize) {
        let (mut frame, mut level) = (self.table.root(), self.table.levels() - 1);
        while level > 0 {
            let slot = (iova >> shift(level)) as usize % 512;
            let word = self.frames.table(frame).unwrap()[slot].load(Ordering::Relaxed);
            frame = PhysAddr::new(word & 0x000f_ffff_ffff_f000);
            level -= 1;
        }
        (frame, (iova / PAGE) as usize % 512)
    }

    fn change(&self, iova: u64, change: impl FnOnce(u64) -> u64) {
        let (frame, slot) = self.slot(iova);
        let word = &self.frames.table(frame).unwrap()[slot];
        word.store(change(word.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    fn examine(&self) -> Result<Vec<Extent>, NotATable> {
        let mut seen = Vec::new();
        self.table.examine(&self.frames, Told::ByMarks, &mut |frame| {
            let new = !seen.contains(&frame);
            seen.push(frame);
            new
        })
    }

    /// Goes on with what is left: which mappings are there then.
    fn go_on(mut self) -> Vec<(u64, u64)> {
        let extents = self.examine().unwrap();
        let found: Vec<_> = extents.iter().map(|it| (it.iova.get(), it.bytes)).collect();
        for extent in &extents {
            let start = PhysAddr::new(0x100_0000 + extent.iova.get());
            assert_eq!(extent.memory, [Segment { start, bytes: extent.bytes }]);
        }
        let (format, root, levels) = (self.table.format, self.table.root(), self.table.levels());
        self.table = PageTable::found(format, root, levels).unwrap();
        let mut retired = Vec::new();
        let keeps = |iova: Iova| {
            found.iter().any(|(start, bytes)| iova.get().wrapping_sub(*start) < *bytes)
        };
        self.table.prune(&self.frames, &mut |iova| keeps(iova), &mut retired).unwrap();
        for (iova, bytes) in &found {
            let iova = Iova::new(*iova);
            self.table.unmap(&mut self.frames, iova, *bytes, &mut retired).unwrap();
        }
        self.table.give_up_empty(&self.frames, &mut retired).unwrap();
        retired.into_iter().for_each(|frame| self.frames.free_frame(frame));
        assert_eq!(self.frames.live(), 1, "only the root is left");
        found
    }
}

fn each_half_done_mapping_is_nobody_s<F: Format>(format: F) {
    assert_eq!(Left::new(format).go_on(), MAPPINGS);
    for (index, (iova, bytes)) in MAPPINGS.into_iter().enumerate() {
        let others: Vec<_> =
            MAPPINGS.iter().enumerate().filter(|it| it.0 != index).map(|it| *it.1).collect();
        // As a map leaves it that ends before this page, or an unmap that has come as far.
        for pages in 0..bytes / PAGE {
            let left = Left::new(format);
            (pages..bytes / PAGE).for_each(|page| left.change(iova + page * PAGE, |_| 0));
            assert_eq!(left.go_on(), others, "{iova:#x} entered up to {pages}");
            let left = Left::new(format);
            (0..=pages).for_each(|page| left.change(iova + page * PAGE, |_| 0));
            assert_eq!(left.go_on(), others, "{iova:#x} removed up to {pages}");
        }
        let left = Left::new(format);
        left.change(iova, |word| word & !F::START);
        assert_eq!(left.go_on(), others, "{iova:#x} without its start");
    }
}

#[test]
fn r7_what_was_half_entered_or_half_removed_is_nobody_s() {
    each_half_done_mapping_is_nobody_s(SecondStage::new(AddressWidth::Bits39, u64::MAX, true));
    each_half_done_mapping_is_nobody_s(AmdV1::new(4, u64::MAX));
    each_half_done_mapping_is_nobody_s(AmdV1::new(4, 0));
}

#[test]
fn counts_that_are_wrong_are_made_right() {
    let format = SecondStage::new(AddressWidth::Bits39, u64::MAX, true);
    for count in [0, 1, 0x1ff] {
        let left = Left::new(format);
        left.change(0, |_| count << 52);
        assert_eq!(left.go_on(), MAPPINGS);
    }
}

#[test]
fn r5_a_table_that_is_none_is_refused() {
    let format = SecondStage::new(AddressWidth::Bits39, u64::MAX, true);
    let left = Left::new(format);
    let root = left.table.root();
    let store = |slot: usize, word: u64| {
        left.frames.table(root).unwrap()[slot].store(word, Ordering::Relaxed);
    };
    // Itself, what another entry points to, what is not in the arena, and a table that allows less than all.
    let (lowest, _) = left.slot(0x1000);
    for word in [root.get() | 3, lowest.get() | 3, 0x7000_0003, lowest.get() | 1] {
        store(7, word);
        assert!(left.examine().is_err(), "{word:#x}");
    }
    store(7, 0);
    assert!(left.examine().is_ok());
    for levels in [0, 4] {
        assert!(PageTable::found(format, root, levels).is_none());
    }
}
