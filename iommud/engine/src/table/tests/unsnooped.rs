//! Memory as a unit sees it that does not snoop the processors' caches: what was flushed is there, and of
//! everything else it is not known whether it has been written back by itself.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use std::sync::Mutex;

use dma_types::{Access, Iova, PhysAddr};

use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrame, TableFrames};
use crate::table::PageTable;
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What memory holds of a frame that nobody flushed since it was given out: a page of read and write, at a place
/// that nobody mapped.
const STALE: u64 = 0x000b_ad00_0000_0083;

/// Frames, and what memory holds of them. At each flush it is looked at what the unit would find.
struct Unsnooped {
    frames: FakeFrames,
    memory: Mutex<BTreeMap<u64, Box<[u64; 512]>>>,
    root: Option<PhysAddr>,
    /// Addresses that must lead where they lead, all the time.
    watched: Vec<(u64, u64)>,
}

impl Unsnooped {
    fn new() -> Self {
        let memory = Mutex::default();
        Self { frames: FakeFrames::new(2000), memory, root: None, watched: Vec::new() }
    }

    fn cached(&self, frame: u64) -> [u64; 512] {
        let table = self.frames.table(PhysAddr::new(frame)).unwrap();
        core::array::from_fn(|slot| table[slot].load(Ordering::Acquire))
    }

    /// Where an address leads by 4 levels of these entries: 0 if nowhere.
    fn walk(&self, iova: u64, entry: impl Fn(u64, usize) -> u64) -> u64 {
        let mut at = self.root.unwrap().get();
        for shift in [39, 30, 21, 12] {
            let word = entry(at, (iova >> shift & 0x1ff) as usize);
            let address = word & 0x000f_ffff_ffff_f000;
            if word & 3 == 0 {
                return 0;
            }
            if shift == 12 || word & 0x80 != 0 {
                return address & !((1 << shift) - 1) | iova & ((1 << shift) - 1);
            }
            at = address;
        }
        unreachable!()
    }

    fn check(&self, when: &str, entry: impl Fn(u64, usize) -> u64) {
        for (iova, phys) in self.watched.iter().copied() {
            let found = self.walk(iova, &entry);
            assert_eq!(found, phys, "{iova:#x} {when}");
        }
        // Nothing stale anywhere, around what changes.
        for iova in (0..2 * GIB).step_by(1 << 21).chain((0..4 * MIB).step_by(4096)) {
            let found = self.walk(iova, &entry);
            assert!(found & 0x000f_0000_0000_0000 == 0, "{iova:#x} {when}: {found:#x}");
        }
    }
}

impl TableFrames for Unsnooped {
    fn header_frame(&self) -> PhysAddr {
        self.frames.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let frame = self.frames.alloc_frame()?;
        self.memory.lock().unwrap().insert(frame.get(), Box::new([STALE; 512]));
        Some(frame)
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.frames.free_frame(frame);
    }

    fn alloc_table(&mut self, _frames: usize) -> Option<PhysAddr> {
        None
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.frames.table(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        let mut memory = self.memory.lock().unwrap();
        if self.root.is_some() {
            // All but this table may have been written back already.
            self.check("before the flush", |table, slot| {
                if table == frame.get() { memory[&table][slot] } else { self.cached(table)[slot] }
            });
        }
        let cached = self.cached(frame.get());
        memory.get_mut(&frame.get()).unwrap()[entries.clone()].copy_from_slice(&cached[entries]);
        if self.root.is_some() {
            self.check("after the flush", |table, slot| memory[&table][slot]);
        }
    }
}

#[test]
fn a_unit_that_does_not_snoop_never_finds_anything_stale_nor_loses_what_stays() {
    let mut frames = Unsnooped::new();
    let format = SecondStage::new(AddressWidth::Bits48, u64::MAX, false);
    let mut table = PageTable::new(format, &mut frames).unwrap();
    frames.root = Some(table.root());
    let segment = |start, bytes| [Segment { start: PhysAddr::new(start), bytes }];
    let mut retired = Vec::new();
    // Tables on three levels, then small ones beside, then large pages.
    table.map(&mut frames, Iova::new(0x5000), &segment(0x9000, 4096), Access::Read).unwrap();
    frames.watched.push((0x5000, 0x9000));
    let pages = segment(0x10_0000, 5 * 4096);
    table.map(&mut frames, Iova::new(2 * MIB - 8192), &pages, Access::ReadWrite).unwrap();
    let large = segment(4 * GIB, GIB + 4 * MIB);
    table.map(&mut frames, Iova::new(GIB), &large, Access::ReadWrite).unwrap();
    // Parts of large pages, of which the rest stays.
    let stays = [0, 2 * MIB + 4096, 6 * MIB, GIB - 4096].map(|at| (GIB + at, 4 * GIB + at));
    frames.watched.extend(stays);
    table.unmap(&mut frames, Iova::new(GIB + 4 * MIB), 4096, &mut retired).unwrap();
    table.unmap(&mut frames, Iova::new(GIB + 2 * MIB), 4096, &mut retired).unwrap();
    table.unmap(&mut frames, Iova::new(2 * MIB - 8192), 5 * 4096, &mut retired).unwrap();
    table.map(&mut frames, Iova::new(GIB + 2 * MIB), &segment(0, 4096), Access::Write).unwrap();
    // In the end memory is what the caches hold, but for counts, which no unit looks at.
    let memory = frames.memory.lock().unwrap();
    for frame in memory.keys().filter(|frame| !retired.contains(&PhysAddr::new(**frame))) {
        for (slot, cached) in frames.cached(*frame).into_iter().enumerate() {
            let counted = 0x1ff0_0000_0000_0000;
            let linked = memory[frame][slot] & !counted;
            assert!(cached == 0xdead_dead_dead_dead || linked == cached & !counted);
        }
    }
}
