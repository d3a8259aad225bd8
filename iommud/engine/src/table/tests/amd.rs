//! AMD's version 1 host tables, as those who walk them see them.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};
use proptest::prelude::*;

use super::amd_walkers::{by_newer_qemu, by_older_qemu, by_the_book};
use super::model::Model;
use super::properties::{run, steps};
use crate::amdvi::page_table::AmdV1;
use crate::fakes::FakeFrames;
use crate::platform::{Segment, TableFrames};
use crate::table::{MapError, PageTable, Permissions, UnmapError};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Every size there is, those of natural length, 4 KiB alone.
const SIZES: [u64; 3] = [u64::MAX, 0x4020_1000, 0];

fn amd(levels: u8) -> Model<AmdV1> {
    Model::new(AmdV1::new(levels, u64::MAX), 40)
}

fn segment(start: u64, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(start), bytes }
}

/// Everybody finds what the model knows, and nothing beside it.
fn check_walkers(model: &Model<AmdV1>) {
    let (frames, root, mode) = (&model.frames, model.table.root(), model.table.levels());
    for (iova, physical, access) in model.pages() {
        let expected = Some((physical + 8, access.may_read(), access.may_write()));
        let at = iova + 8;
        assert_eq!(by_the_book(frames, root, mode, at), expected, "at {iova:#x}");
        assert_eq!(by_older_qemu(frames, root, mode, at, 0), expected, "at {iova:#x}");
        assert_eq!(by_newer_qemu(frames, root, mode, at), expected, "at {iova:#x}");
        for beside in [iova.wrapping_sub(4096), iova.wrapping_add(4096)] {
            let known = model.table.translate(frames, Iova::new(beside)).is_some();
            assert_eq!(by_the_book(frames, root, mode, beside).is_some(), known, "{beside:#x}");
            assert_eq!(by_newer_qemu(frames, root, mode, beside).is_some(), known, "{beside:#x}");
            if mode == 6 || beside >> (12 + 9 * mode) == 0 {
                let found = by_older_qemu(frames, root, mode, beside, 0);
                assert_eq!(found.is_some(), known, "{beside:#x}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn amd_tables_do_what_a_map_of_pages_does_by_every_walker(
        sizes in 0..SIZES.len(),
        frames in prop_oneof![Just(4000usize), 8..40usize],
        steps in steps(62),
    ) {
        run(AmdV1::new(6, SIZES[sizes]), frames, steps, check_walkers);
    }

    #[test]
    fn r5_tables_of_anything_at_all_are_survived(
        words in proptest::collection::vec((0..4u64, 0..512usize, any::<u64>(), 0..6u64), 1..60),
        iova in any::<u64>(),
        pages in 1..3000u64,
    ) {
        let mut frames = FakeFrames::new(40);
        let mut table = PageTable::new(AmdV1::new(4, u64::MAX), &mut frames).unwrap();
        let root = table.root().get();
        for _ in 0..3 {
            frames.alloc_frame().unwrap();
        }
        for (frame, slot, word, target) in words {
            // Frames lie side by side, in the order in which they were given out.
            let at = PhysAddr::new(root + frame * 4096);
            let word = match target {
                // Towards one of the four, or of another, with everything else as it comes.
                0..4 => word & 0xfff0_0000_0000_0fff | (root + target * 4096) | 1,
                4 => word | 1,
                _ => word,
            };
            frames.table(at).unwrap()[slot & 3].store(word, Ordering::Relaxed);
        }
        let iova = Iova::new(iova & 0x7f_c020_3000);
        let memory = [segment(0x5000, pages * 4096)];
        table.translate(&frames, iova);
        let _ = table.visit(&frames, |_| ());
        let _ = table.map(&mut frames, iova, &memory, Access::Read);
        let _ = table.unmap(&mut frames, iova, pages * 4096, &mut Vec::new());
        let _ = table.unmap(&mut frames, Iova::new(0), 1 << 39, &mut Vec::new());
        let _ = table.map(&mut frames, Iova::new(1 << 40), &memory, Access::Read);
        table.destroy(&mut frames, &mut Vec::new());
    }
}

#[test]
fn the_root_grows_over_the_old_one_which_stays_as_it_is() {
    let mut model = amd(6);
    assert_eq!(model.table.levels(), 3);
    assert!(model.map(5 * GIB, &[segment(GIB, 3 * 4096)], Access::ReadWrite));
    for (levels, iova) in [(4, TIB), (5, 1 << 50), (6, 1 << 60)] {
        let (old, mode) = (model.table.root(), model.table.levels());
        assert!(model.map(iova, &[segment(0x7000, 4096)], Access::Read));
        assert_eq!(model.table.levels(), levels);
        assert_ne!(model.table.root(), old);
        // Who has not been told yet finds by the old root what there was.
        let found = by_the_book(&model.frames, old, mode, 5 * GIB + 0x1234);
        assert_eq!(found, Some((GIB + 0x1234, true, true)));
        check_walkers(&model);
    }
    model.unmap_all();
    model.finish();
}

#[test]
fn a_unit_of_fewer_levels_has_no_more_addresses() {
    for (levels, bits) in [(1, 21), (2, 30), (3, 39), (4, 48), (5, 57)] {
        let mut model = amd(levels);
        assert_eq!(model.table.levels(), levels.min(3));
        assert!(model.map((1 << bits) - 4096, &[segment(0x5000, 4096)], Access::Read));
        assert_eq!(model.table.levels(), levels);
        let Model { table, frames, .. } = &mut model;
        let beyond = table.map(frames, Iova::new(1 << bits), &[segment(0, 4096)], Access::Read);
        assert_eq!(beyond, Err(MapError::OutOfRange));
        check_walkers(&model);
        model.finish();
    }
}

#[test]
fn the_last_page_of_64_bits_is_found() {
    let mut model = amd(6);
    let Model { table, frames, .. } = &mut model;
    let last = Iova::new(u64::MAX - 4095);
    table.map(frames, last, &[segment(0x5000, 4096)], Access::Write).unwrap();
    let found = by_the_book(frames, table.root(), table.levels(), u64::MAX);
    assert_eq!(found, Some((0x5fff, false, true)));
    model.finish();
}

#[test]
fn pages_of_every_size_are_one_page_to_every_walker() {
    for order in 12..=38 {
        let bytes = 1u64 << order;
        let mut model = amd(4);
        let Model { table, frames, .. } = &mut model;
        let (iova, start) = (Iova::new(3 * TIB), PhysAddr::new(5 * TIB));
        table.map(frames, iova, &[Segment { start, bytes }], Access::ReadWrite).unwrap();
        assert_eq!(table.translate(frames, iova).unwrap().page_bytes, bytes);
        for offset in [0, bytes / 2, bytes - 4096] {
            let expected = Some((5 * TIB + offset, true, true));
            let at = 3 * TIB + offset;
            assert_eq!(by_the_book(frames, table.root(), 4, at), expected);
            assert_eq!(by_older_qemu(frames, table.root(), 4, at, 3 << 61), expected);
            assert_eq!(by_newer_qemu(frames, table.root(), 4, at), expected);
        }
        assert_eq!(by_the_book(frames, table.root(), 4, 3 * TIB + bytes), None);
        let mut retired = Vec::new();
        table.unmap(frames, iova, bytes, &mut retired).unwrap();
        assert_eq!(by_the_book(frames, table.root(), 4, 3 * TIB), None);
        retired.into_iter().for_each(|frame| frames.free_frame(frame));
        model.finish();
    }
}

#[test]
fn pages_are_long_in_a_table_that_exists_too() {
    let mut model = amd(3);
    assert!(model.map(0, &[segment(0x5000, 4096)], Access::Read));
    // In one piece, in two that are alike in nothing, and in single pages that are neighbours in memory.
    assert!(model.map(0x1_0000, &[segment(0x2_0000, 0x7000)], Access::Read));
    assert!(model.map(
        0x2_0000,
        &[segment(0x4_0000, 0x2000), segment(0x9000, 0x1000)],
        Access::Read
    ));
    let singles = [segment(0x6_0000, 4096), segment(0x6_1000, 4096)];
    assert!(model.map(0x3_0000, &singles, Access::Read));
    assert!(!model.map(0x3_1000, &singles, Access::Read));
    let mut pages = Vec::new();
    model.table.visit(&model.frames, |leaf| pages.push(leaf.bytes)).unwrap();
    assert_eq!(pages, [4096, 0x4000, 0x2000, 4096, 0x2000, 4096, 0x2000]);
    check_walkers(&model);
    model.unmap_all();
    model.finish();
}

#[test]
fn longer_memory_is_mapped_by_the_longest_pages() {
    let mut model = amd(4);
    let Model { table, frames, .. } = &mut model;
    let (iova, bytes) = (Iova::new(TIB), TIB + 0x3000);
    table.map(frames, iova, &[segment(8 * TIB, bytes)], Access::Read).unwrap();
    let mut pages = Vec::new();
    table.visit(frames, |leaf| pages.push(leaf.bytes)).unwrap();
    assert_eq!(pages, [256 * GIB, 256 * GIB, 256 * GIB, 256 * GIB, 8192, 4096]);
    model.finish();
}

#[test]
fn a_part_of_a_long_page_is_removed_and_the_rest_stays_in_pages_of_natural_length() {
    let mut model = amd(3);
    assert!(model.map(1 << 20, &[segment(1 << 24, 1 << 16)], Access::ReadWrite));
    assert!(model.unmap((1 << 20) + 0x3000, 0x2000));
    model.check();
    check_walkers(&model);
    let translated = model.table.translate(&model.frames, Iova::new(1 << 20)).unwrap();
    assert_eq!(translated.page_bytes, 4096);
    model.unmap_all();
    model.finish();
}

/// Writes entries into the root, whose count in bits 4:1 of the first three is part of them, and a table below.
fn by_hand(root: &[(usize, u64)], below: &[(usize, u64)]) -> (FakeFrames, PageTable<AmdV1>) {
    let mut frames = FakeFrames::new(40);
    let table = PageTable::new(AmdV1::new(4, u64::MAX), &mut frames).unwrap();
    let lower = frames.alloc_frame().unwrap();
    for (frame, entries) in [(table.root(), root), (lower, below)] {
        for (slot, word) in entries {
            // Where an entry points to a table it is the one below.
            let points = (1..7).contains(&(word >> 9 & 7));
            let word = if points { word | lower.get() } else { *word };
            frames.table(frame).unwrap()[*slot].store(word, Ordering::Relaxed);
        }
    }
    (frames, table)
}

#[test]
fn tables_that_skip_levels_are_understood() {
    // From level 3 to level 1, for 4 KiB at the start of the fourth GiB; one entry in use in each.
    let root = [(0, 2), (3, 0x6000_0000_0000_0201)];
    let below = [(0, 2), (5, 0x7000_0000_0009_8001)];
    let (mut frames, mut table) = by_hand(&root, &below);
    let at = 3 * GIB + 0x5123;
    let found = by_the_book(&frames, table.root(), 3, at);
    assert_eq!(found, Some((0x9_8123, true, true)));
    assert_eq!(table.translate(&frames, Iova::new(at)).unwrap().phys, PhysAddr::new(0x9_8123));
    // Where a bit that is skipped is set nothing is mapped.
    for bit in 21..30 {
        assert_eq!(by_the_book(&frames, table.root(), 3, at | 1 << bit), None);
        assert_eq!(table.translate(&frames, Iova::new(at | 1 << bit)), None);
    }
    // There a table is missing, and the one that skips moves under it. None is made that skips.
    let (page, beside) = ([segment(0x7000, 4096)], Iova::new(3 * GIB + (1 << 21)));
    table.map(&mut frames, beside, &page, Access::Read).unwrap();
    for (iova, phys) in [(at, 0x9_8123), (beside.get(), 0x7000)] {
        let found = by_newer_qemu(&frames, table.root(), 3, iova).unwrap();
        assert_eq!((found.0, by_the_book(&frames, table.root(), 3, iova)), (phys, Some(found)));
    }
    // The last page of a table takes it along, skipped levels or none, but of the one that stays.
    let mut retired = Vec::new();
    table.unmap(&mut frames, beside, 4096, &mut retired).unwrap();
    table.unmap(&mut frames, Iova::new(3 * GIB + 0x5000), 4096, &mut retired).unwrap();
    assert_eq!(retired.len(), 1);
    table.give_up_empty(&frames, &mut retired).unwrap();
    assert_eq!(retired.len(), 3);
    table.destroy(&mut frames, &mut retired);
    retired.into_iter().for_each(|frame| frames.free_frame(frame));
    assert_eq!(frames.live(), 0);
}

#[test]
fn what_tables_allow_is_what_all_of_the_way_allows() {
    for (above, allowed) in [
        (0x6000_0000_0000_0401, Some(Access::ReadWrite)),
        (0x2000_0000_0000_0401, Some(Access::Read)),
        (0x4000_0000_0000_0401, Some(Access::Write)),
        (0x0000_0000_0000_0401, None),
    ] {
        // A page of 2 MiB.
        let below = [(0, 2), (1, 0x7000_0000_0020_0001)];
        let (frames, table) = by_hand(&[(0, above | 2)], &below);
        let found = table.translate(&frames, Iova::new(0x20_0000));
        assert_eq!(found.map(|found| found.access), allowed);
        let walked = by_the_book(&frames, table.root(), 3, 0x20_0000).unwrap();
        assert_eq!(Permissions::new(walked.1, walked.2).access(), allowed);
    }
}

#[test]
fn r5_entries_that_make_no_sense_are_refused() {
    for (slot_of_root, slot_below) in [
        // NextLevel of the level itself, and above.
        (0x6000_0000_0000_0603, 0),
        (0x6000_0000_0000_0803, 0),
        (0x6000_0000_0000_0c03, 0),
        // A table under the lowest level.
        (0x6000_0000_0000_0203, 0x6000_0000_0000_0203),
        // Pages too short for the level, too long for it, and without a zero.
        (0x7000_0000_0000_0e03, 0),
        (0x7000_007f_ffff_fe03, 0),
        (0x700f_ffff_ffff_fe03, 0),
        (0x6000_0000_0000_0203, 0x7000_0000_000f_fe03),
    ] {
        let (mut frames, mut table) = by_hand(&[(0, slot_of_root)], &[(0, slot_below)]);
        assert_eq!(table.translate(&frames, Iova::new(0)), None, "{slot_of_root:#x}");
        let visited = table.visit(&frames, |_| panic!("{slot_of_root:#x}"));
        assert!(matches!(visited, Err(MapError::Foreign(_))), "{slot_of_root:#x}");
        let unmapped = table.unmap(&mut frames, Iova::new(0), 4096, &mut Vec::new());
        assert!(matches!(unmapped, Err(UnmapError::Foreign(_))), "{slot_of_root:#x}");
        let mapped =
            table.map(&mut frames, Iova::new(0), &[segment(0, 4096)], Access::Read).unwrap_err();
        let refused = matches!(mapped, MapError::Foreign(_) | MapError::Occupied(_));
        assert!(refused, "{slot_of_root:#x}");
    }
}
