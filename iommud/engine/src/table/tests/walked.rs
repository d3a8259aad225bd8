//! Tables that are walked while they change.

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use crate::amdvi::page_table::AmdV1;
use crate::platform::{Segment, TableFrame, TableFrames};
use crate::table::{Entry, Format, PageTable};

/// Frames that a walker sees, too. None is given out twice.
#[derive(Clone)]
struct Shared {
    tables: Arc<Vec<Box<TableFrame>>>,
    next: usize,
}

impl TableFrames for Shared {
    fn header_frame(&self) -> PhysAddr {
        PhysAddr::new(0)
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.next += 1;
        (self.next < self.tables.len()).then_some(PhysAddr::new(self.next as u64 * PAGE_SIZE))
    }

    fn free_frame(&mut self, _frame: PhysAddr) {}

    fn alloc_table(&mut self, _frames: usize) -> Option<PhysAddr> {
        None
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.tables.get((frame.get() / PAGE_SIZE) as usize).map(|table| &**table)
    }

    fn flush_entries(&self, _frame: PhysAddr, _entries: Range<usize>) {}
}

/// Where an address leads from a root of 3 levels.
fn walk(frames: &Shared, format: AmdV1, root: PhysAddr, iova: u64) -> Option<u64> {
    let (mut frame, mut level) = (root, 2);
    loop {
        let slot = iova >> (12 + 9 * level) & 0x1ff;
        let word = frames.table(frame)?[slot as usize].load(Ordering::Acquire);
        match format.decode(level, word) {
            Entry::Empty => return None,
            Entry::Table { frame: below, level: lower, .. } => (frame, level) = (below, lower),
            Entry::Leaf { start, order, .. } => {
                return Some(start.get() + (iova & ((1 << order) - 1)));
            }
        }
    }
}

#[test]
fn what_stays_mapped_is_found_at_every_moment() {
    let tables = (0..4000).map(|_| Box::new([const { AtomicU64::new(0) }; 512])).collect();
    let mut frames = Shared { tables: Arc::new(tables), next: 0 };
    let format = AmdV1::new(4, u64::MAX);
    let mut table = PageTable::new(format, &mut frames).unwrap();
    let root = table.root();
    let memory = |start, bytes| [Segment { start: PhysAddr::new(start), bytes }];
    // 64 KiB, 2 MiB and 4 MiB, each one page; the first 4 KiB of each stay.
    let pages = [(0x1_0000, 0x1_0000), (0x20_0000, 0x20_0000), (0x80_0000, 0x40_0000)];
    for (iova, bytes) in pages {
        let memory = memory(0x100_0000 + iova, bytes);
        table.map(&mut frames, Iova::new(iova), &memory, Access::Read).unwrap();
    }
    let seen = frames.clone();
    let change = move || {
        for round in 0..300 {
            let mut retired = Vec::new();
            for (iova, bytes) in pages {
                // A part away, back in pieces, the rest away, and all of the rest back.
                let (part, rest) = (Iova::new(iova + bytes / 2), Iova::new(iova + 4096));
                let mut unmap = |start, bytes| {
                    table.unmap(&mut frames, start, bytes, &mut retired).unwrap();
                };
                unmap(part, 4096);
                unmap(rest, bytes / 2 - 4096);
                let start = 0x100_0000 + iova;
                let mut map = |at: Iova, bytes| {
                    let memory = memory(0x100_0000 + at.get(), bytes);
                    table.map(&mut frames, at, &memory, Access::Read).unwrap();
                };
                map(rest, bytes / 2 - 4096);
                map(part, 4096);
                assert_eq!(table.translate(&frames, part).unwrap().phys.get(), start + bytes / 2);
            }
            if round == 200 {
                let far = Iova::new(1 << 40);
                table.map(&mut frames, far, &memory(0, 4096), Access::Read).unwrap();
                assert_ne!(table.root(), root);
            }
        }
    };
    thread::scope(|scope| {
        let changing = scope.spawn(change);
        while !changing.is_finished() {
            for (iova, _) in pages {
                let found = walk(&seen, format, root, iova + 0x10);
                assert_eq!(found, Some(0x100_0000 + iova + 0x10), "at {iova:#x}");
            }
        }
    });
}
