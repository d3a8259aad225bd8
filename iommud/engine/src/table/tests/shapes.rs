//! Tables of particular shapes: full, deep, grown, taken apart, at the ends of what there is.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::fake::Fake;
use super::model::Model;
use crate::platform::{Segment, TableFrames};
use crate::table::{Format, MapError, UnmapError};
use crate::unit::Touched;
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn segment(start: u64, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(start), bytes }
}

fn second_stage(large: bool) -> Model<SecondStage> {
    let sizes = if large { u64::MAX } else { 0 };
    Model::new(SecondStage::new(AddressWidth::Bits48, sizes, true), 40)
}

fn fake() -> Model<Fake> {
    Model::new(Fake { coherent: true }, 40)
}

#[test]
fn a_full_table_is_not_taken_for_an_empty_one() {
    let mut model = second_stage(true);
    // 512 entries of 2 MiB: the memory is not aligned to 1 GiB.
    assert!(model.map(GIB, &[segment(4 * GIB + 2 * MIB, GIB)], Access::ReadWrite));
    // Taking a page apart leaves all 512 in use.
    assert!(model.unmap(GIB + 6 * MIB, 4096));
    model.check();
    assert!(model.map(GIB + 6 * MIB, &[segment(0x7000, 4096)], Access::Read));
    assert!(!model.map(GIB + 6 * MIB, &[segment(0x7000, 4096)], Access::Read));
    model.check();
    assert!(model.unmap(GIB, GIB));
    model.check();
    model.unmap_all();
    model.finish();
}

#[test]
fn a_table_of_small_pages_is_filled_and_emptied_in_any_order() {
    let mut model = second_stage(false);
    for page in (0..512).rev() {
        assert!(model.map(page * 4096, &[segment((page ^ 5) << 12, 4096)], Access::Read));
    }
    model.check();
    assert_eq!(model.frames.live(), 4);
    for page in (0..512).map(|page| page * 5 % 512) {
        assert!(model.unmap(page * 4096, 4096));
        model.check_tables();
    }
    model.confirm();
    assert_eq!(model.frames.live(), 4, "it stays, and those above it");
    assert!(model.give_up_empty() && !model.give_up_empty());
    model.confirm();
    assert_eq!(model.frames.live(), 1);
    model.finish();
}

#[test]
fn what_holds_the_last_page_of_a_table_is_unlinked_or_stays_however_it_goes() {
    for (iova, bytes) in [(0, 4096), (0, 2 * MIB), (2 * MIB - 4096, 8192), (GIB - 4096, GIB)] {
        let mut model = second_stage(true);
        model.frames.grant(600);
        assert!(model.map(iova, &[segment(4 * GIB, bytes)], Access::Read));
        assert!(model.unmap(iova, bytes));
        model.confirm();
        // What is of one table leaves it, and those above it.
        let tables = match bytes {
            4096 => 4,
            _ if bytes == 2 * MIB => 3,
            // Of those of several, one.
            _ => 4,
        };
        assert_eq!(model.frames.live(), tables, "{bytes:#x} at {iova:#x}");
        // What was used last was forgotten with it.
        assert!(model.map(iova, &[segment(4 * GIB, bytes)], Access::Read));
        model.check();
        model.unmap_all();
        model.finish();
    }
}

#[test]
fn a_page_of_1_gib_is_taken_apart_where_none_of_2_mib_are() {
    let format = SecondStage::new(AddressWidth::Bits48, GIB, true);
    let mut model = Model::new(format, 600);
    assert!(model.map(GIB, &[segment(4 * GIB, GIB)], Access::ReadWrite));
    assert!(model.unmap(GIB + 5 * MIB, 8192));
    model.check_tables();
    let translate = |iova| model.table.translate(&model.frames, Iova::new(iova));
    assert_eq!(translate(GIB + 5 * MIB), None);
    for iova in [GIB, GIB + 5 * MIB - 4096, GIB + 5 * MIB + 8192, 2 * GIB - 4096] {
        let found = translate(iova).unwrap();
        assert_eq!((found.phys.get(), found.page_bytes), (iova + 3 * GIB, 4096));
    }
    model.finish();
}

#[test]
fn roots_that_were_outgrown_empty_are_all_given_back() {
    let mut model = fake();
    // Each time the root alone is in use, and empty when the next address outgrows it.
    for (iova, bytes) in [(2 * MIB, 2 * MIB), (2 * GIB, 2 * GIB)] {
        let Model { table, frames, .. } = &mut model;
        let memory = [segment(0, bytes)];
        let root = table.root();
        let touched = table.map(frames, Iova::new(iova), &memory, Access::Read).unwrap();
        let grown = table.root() != root;
        assert_eq!(touched == Touched::Tables, grown, "another root, and no other table");
        let mut retired = Vec::new();
        table.unmap(frames, Iova::new(iova), bytes, &mut retired).unwrap();
        assert!(retired.is_empty(), "the units have not been told of the new root");
    }
    assert!(model.map(1 << 50, &[segment(0x5000, 4096)], Access::Read));
    assert_eq!(model.table.levels(), 5);
    model.unmap_all();
    model.finish();
}

#[test]
fn a_page_is_no_longer_than_what_the_root_holds() {
    // All that two levels hold, by memory of which a third could map more with one entry.
    let mut model = fake();
    let Model { table, frames, .. } = &mut model;
    table.map(frames, Iova::new(0), &[segment(4 * GIB, GIB)], Access::Read).unwrap();
    for iova in [0, 3 * MIB, GIB - 4096] {
        let found = table.translate(frames, Iova::new(iova)).unwrap();
        assert_eq!((found.phys.get(), found.page_bytes), (4 * GIB + iova, GIB / 2));
    }
    let mut retired = Vec::new();
    table.unmap(frames, Iova::new(0), GIB, &mut retired).unwrap();
    assert_eq!(table.translate(frames, Iova::new(3 * MIB)), None);
    model.finish();
}

#[test]
fn the_last_page_of_64_bits_can_be_mapped() {
    let mut model = fake();
    let Model { table, frames, .. } = &mut model;
    let last = Iova::new(u64::MAX - 4095);
    let page = [segment(0x5000, 4096)];
    table.map(frames, last, &page, Access::Read).unwrap();
    assert_eq!(table.levels(), 6);
    let found = table.translate(frames, Iova::new(u64::MAX)).unwrap();
    assert_eq!(found.phys.get(), 0x5fff);
    let again = table.map(frames, last, &page, Access::Read);
    assert_eq!(again, Err(MapError::Occupied(last)));
    let mut retired = Vec::new();
    let unmapped = table.unmap(frames, last, 4096, &mut retired).unwrap();
    assert_eq!((unmapped.start, unmapped.bytes), (last, 4096));
    assert_eq!(table.translate(frames, last), None);
    retired.into_iter().for_each(|frame| frames.free_frame(frame));
    model.finish();
}

#[test]
fn r5_memory_that_no_entry_can_name_is_refused() {
    let mut model = second_stage(true);
    let Model { table, frames, .. } = &mut model;
    let mut map = |start, bytes| {
        let memory = [segment(start, bytes)];
        table.map(frames, Iova::new(0), &memory, Access::Read).map(drop)
    };
    for _ in 0..2 {
        assert_eq!(map(1 << 52, 4096), Err(MapError::OutOfRange));
        assert_eq!(map((1 << 52) - 4096, 8192), Err(MapError::OutOfRange));
    }
    assert_eq!(map((1 << 52) - 4096, 4096), Ok(()));
    // The table is in use now: the way for one page is another.
    assert_eq!(map(1 << 52, 4096), Err(MapError::OutOfRange));
    assert_eq!(map(0, 4096), Err(MapError::Occupied(Iova::new(0))));
    let nothing = [segment(0x5000, 4096), segment(0x9000, 0)];
    let mapped = table.map(frames, Iova::new(GIB), &nothing, Access::Read);
    assert_eq!(mapped, Err(MapError::Empty));
    model.finish();
}

#[test]
fn what_may_be_done_is_what_every_entry_on_the_way_allows() {
    let mut model = fake();
    assert!(model.map(0x5000, &[segment(0x9000, 4096)], Access::ReadWrite));
    let Model { table, frames, .. } = &mut model;
    let access = |frames: &crate::fakes::FakeFrames| {
        table.translate(frames, Iova::new(0x5000)).map(|found| found.access)
    };
    assert_eq!(access(frames), Some(Access::ReadWrite));
    let allow = |frames: &crate::fakes::FakeFrames, bits: u64| {
        let entry = &frames.table(table.root()).unwrap()[0];
        entry.store(entry.load(Ordering::Relaxed) & !6 | bits, Ordering::Relaxed);
    };
    allow(frames, 2);
    assert_eq!(access(frames), Some(Access::Read));
    allow(frames, 4);
    assert_eq!(access(frames), Some(Access::Write));
    allow(frames, 0);
    assert_eq!(access(frames), None);
    let mut visited = 0;
    table.visit(frames, |_| visited += 1).unwrap();
    assert_eq!(visited, 0);
    // It is there all the same.
    let page = [segment(0x9000, 4096)];
    let mapped = table.map(frames, Iova::new(0x5000), &page, Access::Read);
    assert_eq!(mapped, Err(MapError::Occupied(Iova::new(0x5000))));
    model.finish();
}

/// Does one thing with fewer frames than it takes, and with enough.
fn with_too_few_frames<F: Format>(
    new: impl Fn() -> Model<F>,
    prepare: impl Fn(&mut Model<F>),
    mut step: impl FnMut(&mut Model<F>) -> bool,
) {
    for free in 0.. {
        let mut model = new();
        prepare(&mut model);
        model.confirm();
        let (root, levels, live) = (model.table.root(), model.table.levels(), model.frames.live());
        let mut hoard: Vec<_> = core::iter::from_fn(|| model.frames.alloc_frame()).collect();
        hoard.drain(..free).for_each(|frame| model.frames.free_frame(frame));
        let done = step(&mut model);
        hoard.into_iter().for_each(|frame| model.frames.free_frame(frame));
        model.check();
        if !done {
            assert_eq!((model.table.root(), model.table.levels()), (root, levels));
            assert_eq!(model.frames.live(), live);
        }
        model.finish();
        if done {
            assert!(free > 0, "it takes frames");
            return;
        }
    }
}

#[test]
fn r7_growing_without_frames_changes_nothing() {
    let far = |model: &mut Model<Fake>| model.map(1 << 50, &[segment(0x5000, 4096)], Access::Read);
    with_too_few_frames(fake, |_| {}, far);
    let near = |model: &mut Model<Fake>| {
        assert!(model.map(0x7000, &[segment(0x5000, 4096)], Access::Read));
    };
    with_too_few_frames(fake, near, far);
    // Across the end of what the old root reaches.
    let across =
        |model: &mut Model<Fake>| model.map(GIB - 8192, &[segment(0x5000, 3 * 4096)], Access::Read);
    with_too_few_frames(fake, near, across);
}

#[test]
fn r7_making_room_between_levels_without_frames_changes_nothing() {
    let far = |model: &mut Model<Fake>| {
        assert!(model.map(1 << 50, &[segment(0x5000, 4096)], Access::Read));
    };
    // From what the skipping table holds to what it does not, over two more levels.
    with_too_few_frames(fake, far, |model| {
        let memory = [segment(0x9000, 0x3000), segment(0x20_0000, 0x1000)];
        model.map((1 << 50) + 512 * GIB - 8192, &memory, Access::Write)
    });
}

#[test]
fn r7_taking_pages_apart_without_frames_changes_nothing() {
    let large = |model: &mut Model<SecondStage>| {
        assert!(model.map(GIB, &[segment(4 * GIB, 2 * GIB)], Access::ReadWrite));
    };
    with_too_few_frames(
        || second_stage(true),
        large,
        |model| model.unmap(GIB + 2 * MIB + 4096, GIB),
    );
    let large = |model: &mut Model<Fake>| {
        assert!(model.map(0, &[segment(4 * GIB, 16 * MIB)], Access::ReadWrite));
    };
    with_too_few_frames(fake, large, |model| model.unmap(3 * MIB + 4096, 4 * MIB));
}

#[test]
fn r7_what_is_not_all_mapped_stays_as_it_is() {
    let mut model = second_stage(true);
    assert!(model.map(0, &[segment(4 * GIB, GIB + 4 * MIB)], Access::Read));
    assert!(model.map(GIB + 4 * MIB + 8192, &[segment(0x5000, 4096)], Access::Read));
    for (iova, bytes) in [(0, GIB + 5 * MIB), (4096, 2 * GIB), (GIB + 4 * MIB - 4096, 8192)] {
        assert!(!model.unmap(iova, bytes));
    }
    let mut retired = Vec::new();
    let Model { table, frames, .. } = &mut model;
    let hole = GIB + 4 * MIB + 4096;
    let unmapped = table.unmap(frames, Iova::new(hole - 8192), 5 * 4096, &mut retired);
    assert_eq!(unmapped, Err(UnmapError::NotMapped(Iova::new(hole - 4096))));
    model.check();
    model.finish();
}
