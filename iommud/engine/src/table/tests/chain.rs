//! Mappings one behind the other, entered at one go.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};

use super::model::Model;
use crate::amdvi::page_table::AmdV1;
use crate::platform::Segment;
use crate::table::{Extent, Format, Told};
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

const PAGE: u64 = 4096;
const TABLE: u64 = 512 * PAGE;

/// The pieces of memory of one mapping after the other, and what may be done with it.
type Mappings<'a> = &'a [(&'a [Segment], Access)];

const fn segment(start: u64, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(start), bytes }
}

/// Pages, what is larger and aligned as large pages are, and what is in pieces.
const CHAIN: Mappings<'_> = &[
    (&[segment(0x9000, PAGE)], Access::Read),
    (&[segment(0xa000, PAGE)], Access::Read),
    (&[segment(0x70_0000, PAGE), segment(0x40_0000, 2 * PAGE)], Access::Write),
    (&[segment(0x80_4000, 4 * PAGE)], Access::ReadWrite),
    (&[segment(0x80_8000, PAGE)], Access::ReadWrite),
];

fn bytes((memory, _): &(&[Segment], Access)) -> u64 {
    memory.iter().map(|segment| segment.bytes).sum()
}

impl<F: Format> Model<F> {
    /// Enters a chain; checks that it is so just when nothing was there.
    fn map_chain(&mut self, iova: u64, chain: Mappings<'_>) -> bool {
        let memory: Vec<Segment> = chain.iter().flat_map(|(memory, _)| memory.to_vec()).collect();
        let mappings = chain.iter().map(|it| (bytes(it), it.1));
        let at = Iova::new(iova);
        let entered = self.table.map_chain_at_hand(&self.frames, at, &memory, mappings);
        if entered {
            let mut at = iova;
            for it in chain {
                self.note(at, it.0, it.1);
                at += bytes(it);
            }
        }
        entered
    }

    /// Where mappings start and end, as whoever finds the table sees it.
    fn extents(&self) -> Vec<Extent> {
        self.table.examine(&self.frames, Told::ByMarks, &mut |_| true).unwrap()
    }
}

/// A model in which there is a table for the second 2 MiB.
fn used<F: Format>(format: F) -> Model<F> {
    let mut model = Model::new(format, 20);
    for iova in [TABLE, 2 * TABLE - PAGE] {
        assert!(model.map(iova, &[segment(0x1000, PAGE)], Access::Read));
    }
    model
}

fn is_entered_as_its_mappings_one_by_one<F: Format>(format: F) {
    for iova in [TABLE + PAGE, TABLE + 4 * PAGE, 2 * TABLE - 11 * PAGE] {
        let (mut chain, mut each) = (used(format), used(format));
        assert!(chain.map_chain(iova, CHAIN), "{iova:#x}");
        let mut at = iova;
        for it in CHAIN {
            assert!(each.map(at, it.0, it.1));
            at += bytes(it);
        }
        chain.check();
        assert_eq!(chain.extents(), each.extents());
        assert_eq!(chain.extents().len(), CHAIN.len() + 2);
        // One of them alone, and then what is left.
        assert!(chain.unmap(iova + PAGE, PAGE) && chain.unmap(iova, PAGE));
        assert!(chain.unmap(iova + 2 * PAGE, 8 * PAGE));
        assert!(chain.map_chain(iova, CHAIN) && chain.unmap(iova, 10 * PAGE));
        for mut model in [chain, each] {
            model.unmap_all();
            model.finish();
        }
    }
}

fn changes_nothing_where_it_is_more_than_entries_of_one_table<F: Format>(format: F) {
    let mut model = used(format);
    assert!(model.map(TABLE + 20 * PAGE, &[segment(0x1000, PAGE)], Access::Read));
    let before = model.extents();
    // Something is at its last page, or in the middle; it goes on in another table; there is no table; no address is such.
    for iova in [TABLE + 11 * PAGE, TABLE + 15 * PAGE, 2 * TABLE - 9 * PAGE, 9 * TABLE, TABLE + 1] {
        assert!(!model.map_chain(iova, CHAIN), "{iova:#x}");
        assert_eq!(model.extents(), before);
    }
    let odd: Mappings<'_> =
        &[(&[segment(0x9000, PAGE)], Access::Read), (&[segment(0x9800, PAGE)], Access::Read)];
    let beyond: Mappings<'_> =
        &[(&[segment(0x9000, PAGE)], Access::Read), (&[segment(1 << 60, PAGE)], Access::Read)];
    for bad in [&[], odd, beyond] {
        assert!(!model.map_chain(TABLE + PAGE, bad));
        assert_eq!(model.extents(), before);
    }
    model.unmap_all();
    model.finish();
}

#[test]
fn a_chain_is_entered_as_its_mappings_are_one_by_one() {
    is_entered_as_its_mappings_one_by_one(SecondStage::new(AddressWidth::Bits48, u64::MAX, true));
    is_entered_as_its_mappings_one_by_one(AmdV1::new(4, u64::MAX));
    is_entered_as_its_mappings_one_by_one(AmdV1::new(4, PAGE));
}

#[test]
fn r7_a_chain_changes_nothing_where_it_is_more_than_entries_of_one_table() {
    let second_stage = SecondStage::new(AddressWidth::Bits48, u64::MAX, true);
    changes_nothing_where_it_is_more_than_entries_of_one_table(second_stage);
    changes_nothing_where_it_is_more_than_entries_of_one_table(AmdV1::new(4, u64::MAX));
}
