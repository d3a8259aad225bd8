//! Random ranges in every format.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};
use proptest::prelude::*;

use super::fake::Fake;
use super::model::Model;
use super::walker::walk;
use crate::platform::{Segment, TableFrames};
use crate::table::{Format, MapError, PageTable, UnmapError};
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn segment(start: u64, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(start), bytes }
}

fn second_stage(width: AddressWidth, large: bool, coherent: bool) -> SecondStage {
    SecondStage::new(width, if large { u64::MAX } else { 0 }, coherent)
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Map {
        iova: u64,
        memory: Vec<(u64, u64)>,
        access: Access,
    },
    Unmap {
        iova: u64,
        pages: u64,
    },
    /// Unmaps some of what is mapped, from the nth page on.
    UnmapSome {
        nth: usize,
        pages: u64,
    },
    /// Hardware confirms what was invalidated.
    Confirm,
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)]
}

/// Addresses near each other, so that ranges meet, and near borders of tables of every level.
fn iova(bits: u32) -> impl Strategy<Value = u64> {
    let border = prop_oneof![
        Just(0),
        Just(2 * MIB),
        Just(GIB),
        Just(512 * GIB),
        Just(1 << 47),
        Just(1 << 48),
        Just(1 << 57)
    ];
    (border, -20..700i64).prop_map(move |(border, pages)| {
        let limit = (1u64 << bits) - 16 * MIB;
        border.saturating_add_signed(pages * 4096).min(limit) & !0xfff
    })
}

fn memory() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let bytes = prop_oneof![
        4 => (1..6u64).prop_map(|pages| pages * 4096),
        2 => (1..600u64).prop_map(|pages| pages * 4096),
        1 => Just(2 * MIB),
    ];
    let start = prop_oneof![
        (0..1u64 << 30).prop_map(|page| page << 12),
        (0..1u64 << 20).prop_map(|page| page << 21),
        (0..1u64 << 26).prop_map(|page| page << 16),
    ];
    proptest::collection::vec((start, bytes), 1..4)
}

pub(super) fn steps(bits: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (iova(bits), memory(), access())
            .prop_map(|(iova, memory, access)| Step::Map { iova, memory, access }),
        1 => (iova(bits), 1..600u64).prop_map(|(iova, pages)| Step::Unmap { iova, pages }),
        3 => (any::<usize>(), 1..40u64).prop_map(|(nth, pages)| Step::UnmapSome { nth, pages }),
        2 => Just(Step::Confirm),
    ];
    proptest::collection::vec(step, 1..40)
}

pub(super) fn run<F: Format>(format: F, frames: usize, steps: Vec<Step>, each: impl Fn(&Model<F>)) {
    let mut model = Model::new(format, frames);
    for step in steps {
        match step {
            Step::Map { iova, memory, access } => {
                let memory: Vec<_> =
                    memory.into_iter().map(|(start, bytes)| segment(start, bytes)).collect();
                model.map(iova, &memory, access);
            }
            Step::Unmap { iova, pages } => {
                model.unmap(iova, pages * 4096);
                model.check_tables();
            }
            Step::Confirm => model.confirm(),
            Step::UnmapSome { nth, pages } => {
                let count = model.pages().count().max(1);
                let Some((first, ..)) = model.pages().nth(nth % count) else { continue };
                let run = model
                    .pages()
                    .skip_while(|(iova, ..)| *iova < first)
                    .zip(0..pages)
                    .take_while(|((iova, ..), index)| *iova == first + index * 4096)
                    .count();
                model.unmap(first, run as u64 * 4096);
            }
        }
    }
    model.check();
    each(&model);
    model.unmap_all();
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn second_stage_tables_do_what_a_map_of_pages_does(
        levels in 3..=5u8,
        large in any::<bool>(),
        frames in prop_oneof![Just(4000usize), 8..40usize],
        steps in steps(39),
    ) {
        let width = AddressWidth::from_levels(levels).unwrap();
        run(second_stage(width, large, true), frames, steps, |model| {
            for (iova, physical, access) in model.pages() {
                let found = walk(&model.frames, model.table.root(), levels.into(), iova + 8);
                let expected = (physical + 8, access.may_read(), access.may_write());
                assert_eq!(found, Some(expected), "at {iova:#x}");
            }
        });
    }

    #[test]
    fn the_fake_format_does_too_with_all_that_a_format_can_do(
        frames in prop_oneof![Just(4000usize), 8..40usize],
        coherent in any::<bool>(),
        steps in steps(57),
    ) {
        run(Fake { coherent }, frames, steps, |_| {});
    }
}

#[test]
fn pages_are_as_large_as_alignment_and_length_allow() {
    let format = second_stage(AddressWidth::Bits48, true, true);
    let mut model = Model::new(format, 100);
    // From 2 MiB below 1 GiB to 2 MiB and a page above 2 GiB, in one piece with the same alignment.
    let start = GIB - 2 * MIB;
    let memory = segment(8 * GIB - 2 * MIB, GIB + 4 * MIB + 4096);
    assert!(model.map(start, &[memory], Access::ReadWrite));
    let mut sizes = Vec::new();
    model.table.visit(&model.frames, |leaf| sizes.push(leaf.bytes)).unwrap();
    assert_eq!(sizes, [2 * MIB, GIB, 2 * MIB, 4096]);
    model.finish();
}

#[test]
fn adjacent_pieces_make_a_large_page_together() {
    let format = second_stage(AddressWidth::Bits48, true, true);
    let mut model = Model::new(format, 100);
    let pieces: Vec<_> = (0..512).map(|n| segment(4 * MIB + n * 4096, 4096)).collect();
    assert!(model.map(0, &pieces, Access::Read));
    assert_eq!(model.table.translate(&model.frames, Iova::new(0)).unwrap().page_bytes, 2 * MIB);
    model.finish();
}

#[test]
fn a_large_page_is_taken_apart_and_the_rest_of_it_stays() {
    let format = second_stage(AddressWidth::Bits48, true, true);
    let mut model = Model::new(format, 100);
    assert!(model.map(GIB, &[segment(16 * GIB, GIB)], Access::ReadWrite));
    let mut retired = Vec::new();
    let hole = Iova::new(GIB + 5 * MIB);
    let changed = model.table.unmap(&mut model.frames, hole, 4096, &mut retired).unwrap();
    // The unit has cached the large page, so all of it must be forgotten.
    assert_eq!((changed.start, changed.bytes), (Iova::new(GIB), GIB));
    let translate = |iova| model.table.translate(&model.frames, Iova::new(iova));
    assert_eq!(translate(GIB + 5 * MIB), None);
    assert_eq!(translate(GIB + 5 * MIB + 4096).unwrap().page_bytes, 4096);
    assert_eq!(translate(GIB + 8 * MIB).unwrap().page_bytes, 2 * MIB);
    assert_eq!(translate(GIB).unwrap().phys, PhysAddr::new(16 * GIB));
    assert!(retired.is_empty());
}

#[test]
fn a_sweep_over_16_tib_keeps_one_table() {
    for large in [true, false] {
        let mut model = Model::new(second_stage(AddressWidth::Bits48, large, true), 100);
        for step in 0..16 * 1024 {
            let iova = step * GIB;
            assert!(model.map(iova, &[segment(0x5000, 4096)], Access::Read));
            assert!(model.unmap(iova, 4096));
            model.confirm();
            assert!(model.frames.live() <= 4, "the root, and the way to the first table");
        }
        model.unmap_all();
        model.finish();
    }
}

#[test]
fn a_root_that_has_grown_still_reaches_what_was_there() {
    let mut model = Model::new(Fake { coherent: true }, 100);
    assert_eq!(model.table.levels(), 2);
    assert!(model.map(0x5000, &[segment(0x9000, 4096)], Access::Read));
    assert!(model.map(1 << 50, &[segment(0xa000, 4096)], Access::Write));
    assert_eq!(model.table.levels(), 5);
    model.check();
    model.unmap_all();
    model.finish();
}

#[test]
fn a_table_that_skips_levels_makes_room_when_they_are_needed() {
    let mut model = Model::new(Fake { coherent: true }, 100);
    assert!(model.map(1 << 50, &[segment(0xa000, 4096)], Access::Write));
    let before = model.frames.live();
    // Next to it, but across the border of what the lowest table holds.
    assert!(model.map((1 << 50) + (1 << 40), &[segment(0xb000, 4096)], Access::Write));
    assert!(model.frames.live() > before);
    model.check();
    model.unmap_all();
    model.finish();
}

#[test]
fn r7_without_frames_nothing_changes_wherever_they_run_out() {
    let memory = [segment(0x5000, 3 * MIB), segment(8 * MIB, 2 * MIB)];
    for frames in 1..12 {
        let mut model = Model::new(second_stage(AddressWidth::Bits48, true, true), frames);
        let iova = 512 * GIB - 2 * MIB;
        let mapped = model.map(iova, &memory, Access::ReadWrite);
        assert_eq!(mapped, frames >= 8, "{frames} frames");
        model.check();
        model.finish();
    }
}

#[test]
fn r5_what_makes_no_sense_is_refused() {
    let format = second_stage(AddressWidth::Bits39, true, true);
    let mut model = Model::new(format, 20);
    let Model { table, frames, .. } = &mut model;
    let mut map = |iova, memory: &[Segment]| {
        table.map(frames, Iova::new(iova), memory, Access::Read).map(drop)
    };
    assert_eq!(map(0, &[]), Err(MapError::Empty));
    assert_eq!(map(1, &[segment(0, 4096)]), Err(MapError::Misaligned));
    assert_eq!(map(0, &[segment(1, 4096)]), Err(MapError::Misaligned));
    assert_eq!(map(0, &[segment(0, 100)]), Err(MapError::Misaligned));
    assert_eq!(map(1 << 39, &[segment(0, 4096)]), Err(MapError::OutOfRange));
    assert_eq!(map((1 << 39) - 4096, &[segment(0, 8192)]), Err(MapError::OutOfRange));
    assert_eq!(map(u64::MAX - 4095, &[segment(0, 8192)]), Err(MapError::OutOfRange));
    assert_eq!(map(0, &[segment(u64::MAX - 4095, 8192)]), Err(MapError::OutOfRange));
    assert_eq!(map(0, &[segment(1 << 52, 4096)]), Err(MapError::OutOfRange));
    assert_eq!(map(0, &[segment((1 << 52) - 4096, 8192)]), Err(MapError::OutOfRange));
    let mut unmap =
        |iova, bytes| table.unmap(frames, Iova::new(iova), bytes, &mut Vec::new()).map(drop);
    assert_eq!(unmap(0, 0), Err(UnmapError::Empty));
    assert_eq!(unmap(1, 4096), Err(UnmapError::Misaligned));
    assert_eq!(unmap(0, 4096), Err(UnmapError::NotMapped(Iova::new(0))));
    assert!(matches!(unmap(1 << 39, 4096), Err(UnmapError::NotMapped(_))));
    assert!(matches!(unmap(u64::MAX - 4095, 1 << 40), Err(UnmapError::NotMapped(_))));
}

#[test]
fn r5_a_table_that_somebody_bent_is_an_error() {
    let mut frames = crate::fakes::FakeFrames::new(20);
    let format = second_stage(AddressWidth::Bits48, true, true);
    let mut table = PageTable::new(format, &mut frames).unwrap();
    let outside = PhysAddr::new(0x7000_0000_0000);
    frames.table(table.root()).unwrap()[0]
        .store(outside.get() | 3, core::sync::atomic::Ordering::Relaxed);
    let page = [segment(0, 4096)];
    let mapped = table.map(&mut frames, Iova::new(0), &page, Access::Read);
    assert_eq!(mapped, Err(MapError::Foreign(outside)));
    let unmapped = table.unmap(&mut frames, Iova::new(0), 4096, &mut Vec::new());
    assert_eq!(unmapped, Err(UnmapError::Foreign(outside)));
    assert_eq!(table.translate(&frames, Iova::new(0)), None);
}

#[test]
fn a_unit_that_does_not_snoop_gets_every_changed_entry_flushed() {
    let format = second_stage(AddressWidth::Bits48, true, false);
    let mut model = Model::new(format, 20);
    // What memory holds: only what was flushed.
    let flushed = |model: &Model<SecondStage>, frame: PhysAddr, slot: usize| {
        let all = model.frames.flushed.lock().unwrap();
        all.get(&frame.get()).is_some_and(|ranges| ranges.iter().any(|range| range.contains(&slot)))
    };
    assert!(flushed(&model, model.table.root(), 511), "the root, when it is made");
    model.frames.flushed.lock().unwrap().clear();
    assert!(model.map(0, &[segment(0x5000, 3 * 4096)], Access::Read));
    let mut frame = model.table.root();
    for level in (0..4).rev() {
        assert!(flushed(&model, frame, 0), "level {level}");
        let word =
            model.frames.table(frame).unwrap()[0].load(core::sync::atomic::Ordering::Relaxed);
        if level == 0 {
            assert!(flushed(&model, frame, 2) && flushed(&model, frame, 511));
        } else {
            frame = PhysAddr::new(word & 0x000f_ffff_ffff_f000);
        }
    }
    model.frames.flushed.lock().unwrap().clear();
    assert!(model.unmap(4096, 4096));
    assert!(flushed(&model, frame, 1));
    model.finish();
}
