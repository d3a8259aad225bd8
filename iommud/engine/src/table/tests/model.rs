//! What a page table should do, as a map of pages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};

use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrames};
use crate::table::{Format, MapError, PageTable, UnmapError};

pub(super) struct Model<F> {
    pub(super) frames: FakeFrames,
    pub(super) table: PageTable<F>,
    pages: BTreeMap<u64, (u64, Access)>,
}

impl<F: Format> Model<F> {
    pub(super) fn new(format: F, frames: usize) -> Self {
        let mut frames = FakeFrames::new(frames);
        let table = PageTable::new(format, &mut frames).unwrap();
        Self { frames, table, pages: BTreeMap::new() }
    }

    /// Maps, and checks that it is done just when nothing was there.
    pub(super) fn map(&mut self, iova: u64, memory: &[Segment], access: Access) -> bool {
        let bytes: u64 = memory.iter().map(|segment| segment.bytes).sum();
        let free = self.pages.range(iova..iova + bytes).next().is_none();
        let live = self.frames.live();
        let result = self.table.map(&mut self.frames, Iova::new(iova), memory, access);
        match result {
            Ok(_) => {
                assert!(free, "mapped over something at {iova:#x}");
                let mut at = iova;
                for segment in memory {
                    for page in 0..segment.bytes / 4096 {
                        self.pages.insert(at, (segment.start.get() + page * 4096, access));
                        at += 4096;
                    }
                }
                true
            }
            Err(error) => {
                assert_eq!(self.frames.live(), live, "a failure leaks");
                match error {
                    MapError::Occupied(_) => assert!(!free, "refused {iova:#x}, which is free"),
                    MapError::OutOfFrames => {}
                    other => panic!("{other}"),
                }
                false
            }
        }
    }

    /// Unmaps, and checks that it is done just when all of it was there.
    pub(super) fn unmap(&mut self, iova: u64, bytes: u64) -> bool {
        let there = self.pages.range(iova..iova + bytes).count() as u64 == bytes / 4096;
        let live = self.frames.live();
        let mut retired = Vec::new();
        match self.table.unmap(&mut self.frames, Iova::new(iova), bytes, &mut retired) {
            Ok(changed) => {
                assert!(there, "unmapped what is not mapped at {iova:#x}");
                assert!(changed.start.get() <= iova);
                assert!(changed.start.get() + changed.bytes >= iova + bytes);
                for page in 0..bytes / 4096 {
                    self.pages.remove(&(iova + page * 4096));
                }
                // Hardware may walk what is retired until it has confirmed: nothing was given back yet.
                for frame in retired {
                    assert!(self.frames.table(frame).is_some());
                    self.frames.free_frame(frame);
                }
                true
            }
            Err(error) => {
                assert_eq!(self.frames.live(), live, "a failure leaks");
                assert!(retired.is_empty());
                match error {
                    UnmapError::NotMapped(_) => {
                        assert!(!there, "refused {iova:#x}, which is mapped")
                    }
                    UnmapError::OutOfFrames => {}
                    other => panic!("{other}"),
                }
                false
            }
        }
    }

    /// Checks every page, and the pages beside them.
    pub(super) fn check(&self) {
        for (iova, (physical, access)) in &self.pages {
            let found = self.table.translate(&self.frames, Iova::new(iova + 0x123)).unwrap();
            assert_eq!(found.phys, PhysAddr::new(physical + 0x123), "at {iova:#x}");
            assert_eq!(found.access, *access, "at {iova:#x}");
            for beside in [iova.wrapping_sub(4096), iova + 4096] {
                let known = self.pages.contains_key(&beside);
                let found = self.table.translate(&self.frames, Iova::new(beside));
                assert_eq!(found.is_some(), known, "at {beside:#x}");
            }
        }
        let mut visited = BTreeMap::new();
        self.table
            .visit(&self.frames, |leaf| {
                for page in 0..leaf.bytes / 4096 {
                    let physical = leaf.start.get() + page * 4096;
                    visited.insert(leaf.iova.get() + page * 4096, (physical, leaf.access));
                }
            })
            .unwrap();
        assert_eq!(visited, self.pages);
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, u64, Access)> {
        self.pages.iter().map(|(iova, (physical, access))| (*iova, *physical, *access))
    }

    /// Unmaps everything page by page: only the root, and what it grew to, is left.
    pub(super) fn unmap_all(&mut self) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for page in pages {
            // Taking a large page apart may need a frame or two more than there are.
            self.frames.grant(8);
            assert!(self.unmap(page, 4096));
        }
        self.check();
    }

    /// Takes the table apart: not a frame is left.
    pub(super) fn finish(mut self) {
        let mut retired = Vec::new();
        self.table.destroy(&mut self.frames, &mut retired);
        retired.into_iter().for_each(|frame| self.frames.free_frame(frame));
        assert_eq!(self.frames.live(), 0);
    }
}
