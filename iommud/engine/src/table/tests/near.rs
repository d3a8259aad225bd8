//! The tables used last, which are found without a walk.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::fake::Fake;
use super::model::{Model, empty};
use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrames};
use crate::table::{MapError, UnmapError};
use crate::unit::Touched;
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn segment(start: u64, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(start), bytes }
}

fn second_stage() -> Model<SecondStage> {
    Model::new(SecondStage::new(AddressWidth::Bits48, u64::MAX, true), 40)
}

/// A model in which the lowest tables of the first GiB are those used last.
fn used() -> Model<SecondStage> {
    let mut model = second_stage();
    for (iova, bytes) in [(MIB, 4096), (512 * MIB, 2 * MIB)] {
        // The first made the table, the second finds it.
        for iova in [iova, iova + bytes] {
            assert!(model.map(iova, &[segment(4 * GIB, bytes)], Access::Read));
        }
    }
    model
}

#[test]
fn a_range_begins_in_the_table_before_or_goes_on_in_the_next() {
    for iova in [2 * MIB - 8192, 4 * MIB - 8192] {
        let mut model = second_stage();
        let use_table = |model: &mut Model<SecondStage>| {
            for page in [0x10, 0x20] {
                let iova = 3 * MIB + page * 4096;
                let mapped = model.map(iova, &[segment(0x9000, 4096)], Access::Read);
                assert!(mapped || model.unmap(iova, 4096));
            }
        };
        use_table(&mut model);
        assert!(model.map(iova, &[segment(0x10_0000, 4 * 4096)], Access::Write));
        model.check();
        use_table(&mut model);
        assert!(!model.map(iova, &[segment(0x10_0000, 4 * 4096)], Access::Write));
        assert!(model.unmap(iova, 4 * 4096));
        model.check();
        model.unmap_all();
        model.finish();
    }
}

#[test]
fn a_table_unlinked_with_others_is_forgotten() {
    let mut model = second_stage();
    // Three pages around a border, of which the first makes the table before it the one used last.
    assert!(model.map(2 * MIB - 4096, &[segment(0x9000, 8192)], Access::Read));
    assert!(model.map(2 * MIB - 8192, &[segment(0x5000, 4096)], Access::Read));
    assert!(model.unmap(2 * MIB - 8192, 3 * 4096));
    assert!(model.map(2 * MIB - 4096, &[segment(0x9000, 4096)], Access::Read));
    model.check();
    model.unmap_all();
    model.finish();
}

#[test]
fn a_large_page_goes_where_its_table_is_found_by_a_walk() {
    let mut model = second_stage();
    assert!(model.map(0x5000, &[segment(0x9000, 4096)], Access::Read));
    assert!(model.map(4 * MIB, &[segment(8 * MIB, 2 * MIB)], Access::Read));
    let found = model.table.translate(&model.frames, Iova::new(5 * MIB)).unwrap();
    assert_eq!((found.phys.get(), found.page_bytes), (9 * MIB, 2 * MIB));
    // Where small pages are, it does not.
    assert!(!model.map(0, &[segment(8 * MIB, 2 * MIB)], Access::Read));
    model.check();
    model.unmap_all();
    model.finish();
}

#[test]
fn r5_memory_that_no_entry_can_name_is_refused_there_too() {
    let mut model = used();
    let Model { table, frames, .. } = &mut model;
    for iova in [0x5000, 4 * MIB] {
        for start in [1 << 52, 1 << 60] {
            let memory = [segment(start, if iova < MIB { 4096 } else { 2 * MIB })];
            let mapped = table.map(frames, Iova::new(iova), &memory, Access::Read);
            assert_eq!(mapped, Err(MapError::OutOfRange));
        }
        assert_eq!(table.translate(frames, Iova::new(iova)), None);
    }
    model.check();
    model.finish();
}

#[test]
fn r7_a_page_stays_whose_table_cannot_be_unlinked() {
    let outside = 0x7000_0000_0003;
    for (level, word) in [(3, outside), (2, outside), (1, outside), (3, 0), (2, 0), (1, 0x83)] {
        for (iova, bytes) in [(0, 4096), (4096, 8192)] {
            let mut model = second_stage();
            // Another table is the one that stays when it is empty.
            assert!(model.map(40 * GIB, &[segment(0x9000, 4096)], Access::Read));
            assert!(model.unmap(40 * GIB, 4096));
            // Twice, so that the table is one that was used last.
            for iova in [iova, iova + MIB] {
                assert!(model.map(iova, &[segment(0x5000, bytes)], Access::Read));
            }
            assert!(model.unmap(iova + MIB, bytes));
            let Model { table, frames, .. } = &mut model;
            let mut bent = table.root();
            for _ in level..3 {
                let word = frames.table(bent).unwrap()[0].load(Ordering::Relaxed);
                bent = PhysAddr::new(word & 0x000f_ffff_ffff_f000);
            }
            let bend = |frames: &FakeFrames, word| {
                frames.table(bent).unwrap()[0].swap(word, Ordering::Relaxed)
            };
            // It is found without a walk, and somebody bent the way to it.
            let before = bend(frames, word);
            let mut retired = Vec::new();
            let unmapped = table.unmap(frames, Iova::new(iova), bytes, &mut retired);
            assert!(matches!(unmapped, Err(UnmapError::Foreign(_))), "level {level}: {word:#x}");
            assert!(retired.is_empty());
            assert_eq!(bend(frames, before), word);
            model.check();
            model.unmap_all();
            model.finish();
        }
    }
}

#[test]
fn an_empty_root_that_was_outgrown_is_not_used_again() {
    // Whatever the first unmap after it takes away: a page, or more than a table.
    for bytes in [4096, 4 * MIB + 4096] {
        let mut model = Model::new(Fake { coherent: true }, 40);
        let old = model.table.root();
        // The root's own pages, so that it was used last.
        assert!(model.map(2 * MIB, &[segment(8 * MIB, 2 * MIB)], Access::Read));
        assert!(model.unmap(2 * MIB, 2 * MIB));
        assert!(model.map(1 << 50, &[segment(0x5000, bytes)], Access::Read));
        assert_ne!(model.table.root(), old);
        assert!(model.map(2 * MIB, &[segment(8 * MIB, 2 * MIB)], Access::Read));
        model.check();
        let Model { table, frames, .. } = &mut model;
        let mut retired = Vec::new();
        table.unmap(frames, Iova::new(1 << 50), bytes, &mut retired).unwrap();
        // Of a single page the table stays until it is given up.
        table.give_up_empty(frames, &mut retired).unwrap();
        assert!(retired.contains(&old), "{bytes:#x}");
        retired.into_iter().for_each(|frame| frames.free_frame(frame));
        model.finish();
    }
}

#[test]
fn a_full_table_goes_with_the_last_of_its_pages() {
    for bytes in [4096, 2 * MIB] {
        let mut model = second_stage();
        let elsewhere = |model: &mut Model<SecondStage>| {
            let iova = 40 * GIB;
            assert!(model.map(iova, &[segment(8 * GIB, bytes)], Access::Read));
            assert!(model.unmap(iova, bytes));
        };
        // So that both tables stay.
        assert!(model.map(40 * GIB + bytes, &[segment(6 * MIB, bytes)], Access::Read));
        for page in 0..512 {
            assert!(model.map(page * bytes, &[segment(4 * MIB, bytes)], Access::Read));
        }
        for page in 0..512 {
            if page % 100 == 0 {
                elsewhere(&mut model);
                model.check_tables();
            }
            assert!(model.unmap(page * bytes, bytes));
        }
        model.check();
        model.unmap_all();
        model.finish();
    }
}

#[test]
fn what_comes_and_goes_alone_in_a_table_makes_none() {
    for (iova, bytes) in [(GIB, 4096), (GIB + 0x3000, 0x5000), (GIB, 2 * MIB)] {
        let mut model = second_stage();
        let memory = [segment(8 * MIB, bytes)];
        for round in 0..3 {
            let Model { table, frames, .. } = &mut model;
            let touched = table.map(frames, Iova::new(iova), &memory, Access::Read).unwrap();
            assert_eq!(touched == Touched::Tables, round == 0, "{bytes:#x}");
            assert_eq!(empty(table, frames), None);
            let mut retired = Vec::new();
            let gone = table.unmap(frames, Iova::new(iova), bytes, &mut retired).unwrap();
            assert_eq!((gone.touched, retired.len()), (Touched::Leaves, 0));
            assert!(empty(table, frames).is_some());
        }
        // All of its pages count, too.
        let pages = [segment(16 * MIB, 512 * 4096)];
        if bytes < 2 * MIB {
            assert!(model.map(GIB + 2 * MIB - 4096, &[segment(0x5000, 4096)], Access::Read));
            assert!(model.map(GIB, &[segment(16 * MIB + 4096, 511 * 4096)], Access::Read));
            model.check();
            for page in (0..512).rev() {
                assert!(model.unmap(GIB + page * 4096, 4096));
            }
        } else {
            assert!(model.map(GIB, &pages, Access::Read));
            assert!(model.unmap(GIB, 2 * MIB));
        }
        model.check();
        model.unmap_all();
        model.finish();
    }
}

#[test]
fn one_empty_table_stays_and_it_may_be_another_when_it_is_in_use_again() {
    let mut model = second_stage();
    let places = [0, 4 * MIB, 8 * MIB].map(|iova| iova + 0x3000);
    let map = |model: &mut Model<SecondStage>, iova| {
        assert!(model.map(iova, &[segment(0x9000, 4096)], Access::Read));
    };
    places.iter().for_each(|iova| map(&mut model, *iova));
    assert!(model.unmap(places[0], 4096));
    let first = empty(&model.table, &model.frames);
    assert!(first.is_some());
    // It is empty: the next one goes with its page.
    let live = model.frames.live();
    assert!(model.unmap(places[1], 4096));
    model.confirm();
    assert_eq!((empty(&model.table, &model.frames), model.frames.live()), (first, live - 1));
    // It is in use again: the next one stays in its place.
    map(&mut model, places[0]);
    assert!(model.unmap(places[2], 4096));
    let other = empty(&model.table, &model.frames);
    assert!(other.is_some() && other != first);
    model.check();
    assert!(model.unmap(places[0], 4096));
    model.confirm();
    assert_eq!((empty(&model.table, &model.frames), model.frames.live()), (other, live - 2));
    model.unmap_all();
    model.finish();
}

#[test]
fn a_large_page_finds_an_empty_table_in_its_way_and_a_small_one_none() {
    for (iova, bytes) in [(2 * MIB, 2 * MIB), (0, 4 * MIB), (0, GIB), (0, 3 * GIB)] {
        let mut model = second_stage();
        model.frames.grant(2000);
        assert!(model.map(2 * MIB + 0x3000, &[segment(0x9000, 4096)], Access::Read));
        assert!(model.unmap(2 * MIB + 0x3000, 4096));
        let Model { table, frames, .. } = &mut model;
        let memory = [segment(8 * GIB + iova, bytes)];
        let in_the_way = table.map(frames, Iova::new(iova), &memory, Access::Read);
        assert_eq!(in_the_way, Err(MapError::EmptyTable), "{bytes:#x} at {iova:#x}");
        assert!(model.map(iova, &memory, Access::Read));
        model.check();
        model.unmap_all();
        model.finish();
    }
    let mut model = second_stage();
    assert!(model.map(GIB + 2 * MIB, &[segment(0x9000, 4096)], Access::Read));
    assert!(model.unmap(GIB + 2 * MIB, 4096));
    assert!(model.map(GIB + 0x3000, &[segment(0x5000, 4096)], Access::Read));
    let Model { table, frames, .. } = &mut model;
    // Memory that is not aligned as large pages are goes into the table.
    let memory = [segment(0x10_0000, 2 * MIB)];
    assert!(table.map(frames, Iova::new(GIB + 2 * MIB), &memory, Access::Read).is_ok());
    model.finish();
}
