//! What a page table should do, as a map of pages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrames};
use crate::table::{Entry, Format, MapError, PageTable, SpareBits, UnmapError};
use crate::unit::Touched;

pub(super) struct Model<F> {
    pub(super) frames: FakeFrames,
    pub(super) table: PageTable<F>,
    pages: BTreeMap<u64, (u64, Access)>,
    /// Frames that were retired, as they were then: hardware may still walk them.
    retired: Vec<(PhysAddr, Vec<u64>)>,
}

/// The table that is kept although it is empty.
pub(super) fn empty<F: Format>(table: &PageTable<F>, frames: &FakeFrames) -> Option<PhysAddr> {
    table.way_to_empty(frames).last().copied()
}

impl<F: Format> Model<F> {
    pub(super) fn new(format: F, frames: usize) -> Self {
        let mut frames = FakeFrames::new(frames);
        let table = PageTable::new(format, &mut frames).unwrap();
        Self { frames, table, pages: BTreeMap::new(), retired: Vec::new() }
    }

    /// Maps, and checks that it is done just when nothing was there.
    pub(super) fn map(&mut self, iova: u64, memory: &[Segment], access: Access) -> bool {
        let bytes: u64 = memory.iter().map(|segment| segment.bytes).sum();
        let free = self.pages.range(iova..iova + bytes).next().is_none();
        let mut live = self.frames.live();
        let mut result = self.table.map(&mut self.frames, Iova::new(iova), memory, access);
        if result == Err(MapError::EmptyTable) {
            assert!(self.give_up_empty(), "there is none");
            live = self.frames.live();
            result = self.table.map(&mut self.frames, Iova::new(iova), memory, access);
        }
        match result {
            Ok(touched) => {
                assert!(free, "mapped over something at {iova:#x}");
                let made = self.frames.live() > live;
                assert_eq!(touched == Touched::Tables, made, "at {iova:#x}");
                self.note(iova, memory, access);
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

    /// Notes what is mapped.
    pub(super) fn note(&mut self, mut iova: u64, memory: &[Segment], access: Access) {
        for segment in memory {
            for page in 0..segment.bytes / 4096 {
                self.pages.insert(iova, (segment.start.get() + page * 4096, access));
                iova += 4096;
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
                let tables = !retired.is_empty() || self.frames.live() > live;
                assert_eq!(changed.touched == Touched::Tables, tables, "at {iova:#x}");
                assert!(changed.start.get() <= iova);
                assert!(changed.start.get() + changed.bytes >= iova + bytes);
                for page in 0..bytes / 4096 {
                    self.pages.remove(&(iova + page * 4096));
                }
                let frames = &self.frames;
                self.retired.extend(retired.iter().map(|frame| (*frame, words(frames, *frame))));
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

    /// Gives up the table that is kept although it is empty, if there is one.
    pub(super) fn give_up_empty(&mut self) -> bool {
        let empty = self.table.way_to_empty(&self.frames);
        let mut retired = Vec::new();
        let given_up = self.table.give_up_empty(&self.frames, &mut retired).unwrap();
        assert_eq!(given_up.map(|it| it.touched), empty.last().map(|_| Touched::Tables));
        // It goes, with the lowest of those above it.
        let goes = |frame: &&PhysAddr| retired.contains(*frame);
        let lowest = empty.iter().rev().take_while(goes).count();
        assert_eq!((lowest, lowest > 0), (empty.iter().filter(goes).count(), !empty.is_empty()));
        let frames = &self.frames;
        self.retired.extend(retired.iter().map(|frame| (*frame, words(frames, *frame))));
        !empty.is_empty()
    }

    /// Hardware has confirmed: what was retired is as it was, and is free now.
    pub(super) fn confirm(&mut self) {
        for (frame, before) in self.retired.drain(..) {
            assert_eq!(words(&self.frames, frame), before, "{frame} was changed");
            self.frames.free_frame(frame);
        }
    }

    /// Checks that every table counts its entries right, that none but the root and the one that is kept are empty, and that
    /// these are all the frames there are.
    pub(super) fn check_tables(&self) {
        let (root, top) = (self.table.root(), self.table.levels() - 1);
        let tables = self.check_table(root, top);
        assert!(self.frames.live() <= tables + self.retired.len() + self.table.outgrown.len());
    }

    fn check_table(&self, frame: PhysAddr, level: u8) -> usize {
        let table = self.frames.table(frame).unwrap();
        let SpareBits { shift, bits } = F::SPARE;
        let (mut counted, mut in_use, mut tables) = (0, 0, 1);
        for (slot, word) in words(&self.frames, frame).into_iter().enumerate() {
            if slot as u32 * bits < 9 {
                counted |= (word >> shift & ((1 << bits) - 1)) << (slot as u32 * bits);
            }
            match self.table.format.decode(level, word) {
                Entry::Empty => continue,
                Entry::Leaf { .. } => {}
                Entry::Table { frame, level, .. } => tables += self.check_table(frame, level),
            }
            in_use += 1;
        }
        let counted = self.table.near.counted(frame).map_or(counted, |it| it as u64 % 512);
        assert_eq!(counted, in_use % table.len() as u64, "the count in {frame}");
        let may_be_empty = [Some(self.table.root()), empty(&self.table, &self.frames)];
        assert!(in_use > 0 || may_be_empty.contains(&Some(frame)), "{frame} is empty");
        tables
    }

    /// Checks every page, and the pages beside them.
    pub(super) fn check(&self) {
        self.check_tables();
        for (iova, (physical, access)) in &self.pages {
            let found = self.table.translate(&self.frames, Iova::new(iova + 0x123)).unwrap();
            assert_eq!(found.phys, PhysAddr::new(physical + 0x123), "at {iova:#x}");
            assert_eq!(found.access, *access, "at {iova:#x}");
            for beside in [iova.wrapping_sub(4096), iova.wrapping_add(4096)] {
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
        self.give_up_empty();
        self.confirm();
        assert_eq!(self.frames.live(), 1, "only the root is left");
    }

    /// Takes the table apart: not a frame is left.
    pub(super) fn finish(mut self) {
        self.confirm();
        let mut retired = Vec::new();
        self.table.destroy(&mut self.frames, &mut retired);
        retired.into_iter().for_each(|frame| self.frames.free_frame(frame));
        assert_eq!(self.frames.live(), 0);
    }
}

fn words(frames: &FakeFrames, frame: PhysAddr) -> Vec<u64> {
    frames.table(frame).unwrap().iter().map(|word| word.load(Ordering::Relaxed)).collect()
}
