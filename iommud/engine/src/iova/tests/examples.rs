//! What the documentation says, shown.

use alloc::vec::Vec;

use dma_types::Iova;

use crate::iova::{
    Guard, INTERRUPT_RANGE, IovaAllocator, IovaError, IovaRange, IovaRequest, PAGE_ZERO,
};

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB1: u64 = 1 << 30;
const MASK28: Iova = Iova::new((1 << 28) - 1);
const MASK32: Iova = Iova::new((1 << 32) - 1);
const SPACE48: Iova = Iova::new((1 << 48) - 1);

/// A space as every domain begins it.
fn space(limit: Iova) -> IovaAllocator {
    let mut space = IovaAllocator::new(limit);
    space.reserve(PAGE_ZERO).unwrap();
    space.reserve(INTERRUPT_RANGE).unwrap();
    space
}

fn range(start: u64, bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), bytes)
}

#[test]
fn each_mask_leaves_the_lower_half_to_narrower_ones() {
    let mut space = space(SPACE48);
    let request = IovaRequest::new(KIB4);
    assert_eq!(space.alloc(request), Ok(Iova::new(1 << 32)));
    assert_eq!(space.alloc(request.below(MASK32)), Ok(Iova::new(1 << 31)));
    assert_eq!(space.alloc(request.below(MASK28)), Ok(Iova::new(1 << 27)));
    assert_eq!(space.alloc(request.below(Iova::new((1 << 24) - 1))), Ok(Iova::new(1 << 23)));
}

#[test]
fn the_lower_half_is_used_when_the_upper_is_full() {
    let mut space = space(SPACE48);
    let half = IovaRequest::new(1 << 27).below(MASK28);
    assert_eq!(space.alloc(half), Ok(Iova::new(1 << 27)));
    assert_eq!(space.alloc(IovaRequest::new(MIB2).below(MASK28)), Ok(Iova::new(KIB4)));
    assert_eq!(space.alloc(IovaRequest::new(KIB4).below(MASK28)), Ok(Iova::new(MIB2 + 2 * KIB4)));
}

#[test]
fn allocations_pack_with_one_guard_page_between() {
    let mut space = space(SPACE48);
    let starts: Vec<u64> = [1, 3, 2]
        .map(|pages| space.alloc(IovaRequest::new(pages * KIB4)).unwrap().get() - (1 << 32))
        .to_vec();
    assert_eq!(starts, [0, 2 * KIB4, 6 * KIB4]);
    assert_eq!((space.allocations(), space.allocated_bytes()), (3, 6 * KIB4));
    assert_eq!(space.guard_bytes(), 3 * KIB4);
}

#[test]
fn a_guard_is_never_given_out_while_its_allocation_lives() {
    let mut space = space(SPACE48);
    let buffer = space.alloc(IovaRequest::new(KIB4)).unwrap();
    let guard = range(buffer.get() + KIB4, KIB4);
    let taken = Err(IovaError::Allocated { allocation: IovaRange::new(buffer, KIB4) });
    assert!(!space.is_free(guard));
    assert_eq!(space.alloc_at(guard.start, KIB4, Guard::None), taken);
    assert_eq!(space.reserve(guard), taken);
    space.free(buffer, KIB4).unwrap();
    assert!(space.is_free(guard));
    assert_eq!(space.alloc_at(guard.start, KIB4, Guard::None), Ok(()));
}

#[test]
fn at_the_end_of_the_space_an_allocation_needs_no_guard_page() {
    let mut space = IovaAllocator::new(MASK28);
    assert_eq!(space.alloc(IovaRequest::new(1 << 28)), Ok(Iova::new(0)));
    assert_eq!(space.free(Iova::new(0), 1 << 28), Ok(()));
    let last = Iova::new((1 << 28) - KIB4);
    assert_eq!(space.alloc_at(last, KIB4, Guard::Page), Ok(()));
}

#[test]
fn the_guard_may_lie_above_the_requests_own_limit() {
    let mut space = IovaAllocator::new(SPACE48);
    assert_eq!(space.alloc(IovaRequest::new(1 << 28).below(MASK28)), Ok(Iova::new(0)));
    assert!(!space.is_free(range(1 << 28, KIB4)));
}

#[test]
fn a_guard_stands_before_a_reserved_range_but_not_behind_it() {
    let mut space = space(MASK32);
    let before = INTERRUPT_RANGE.start.get() - KIB4;
    let reserved = Err(IovaError::Reserved { reserved: INTERRUPT_RANGE });
    assert_eq!(space.alloc_at(Iova::new(before), KIB4, Guard::Page), reserved);
    assert_eq!(space.alloc_at(Iova::new(before - KIB4), KIB4, Guard::Page), Ok(()));
    assert_eq!(space.alloc_at(Iova::new(0xfef0_0000), KIB4, Guard::Page), Ok(()));
}

#[test]
fn large_alignments_are_kept_and_the_gap_before_them_is_used() {
    let mut space = space(SPACE48);
    let base = 1 << 32;
    let mut alloc = |bytes, align| {
        space.alloc(IovaRequest::new(bytes).aligned(align)).map(|iova| iova.get() - base)
    };
    assert_eq!(alloc(KIB4, KIB4), Ok(0));
    assert_eq!(alloc(MIB2, MIB2), Ok(MIB2));
    assert_eq!(alloc(GIB1, GIB1), Ok(GIB1));
    assert_eq!(alloc(1 << 16, 1 << 16), Ok(1 << 16));
    assert_eq!(alloc(KIB4, KIB4), Ok(2 * KIB4));
}

#[test]
fn the_holes_between_large_pages_are_free_and_in_nobodys_way() {
    let mut space = space(SPACE48);
    let (large, page) = (IovaRequest::new(MIB2).aligned(MIB2), IovaRequest::new(KIB4));
    let pages: Vec<Iova> = (0..100).map(|_| space.alloc(large).unwrap()).collect();
    assert!(pages.windows(2).all(|pair| pair[1].get() - pair[0].get() == 2 * MIB2));
    assert_eq!(space.guard_bytes(), 100 * KIB4);
    // No hole is a free range by itself.
    assert_eq!(space.alloc(page), Ok(Iova::new(pages[99].get() + 2 * MIB2)));
    // They are free for who wants an address in them.
    let hole = |number: usize| range(pages[number].get() + MIB2 + KIB4, MIB2 - KIB4);
    assert!(space.is_free(hole(7)) && !space.is_free(range(hole(7).start.get() - KIB4, KIB4)));
    assert_eq!(space.alloc_at(hole(7).start, hole(7).bytes, Guard::None), Ok(()));
    assert_eq!(space.reserve(range(hole(8).start.get() + KIB4, KIB4)), Ok(()));
    // A range at hand keeps its own, and gives it back when it goes.
    assert_eq!((space.free(pages[9], MIB2), space.alloc(large)), (Ok(()), Ok(pages[9])));
    pages.iter().for_each(|iova| space.free(*iova, MIB2).unwrap());
    assert_eq!(space.free(hole(7).start, hole(7).bytes), Ok(()));
    let all = range(1 << 32, hole(8).start.get() - (1 << 32));
    assert!(space.is_free(all) && space.alloc_at(all.start, all.bytes, Guard::Page).is_ok());
}

#[test]
fn where_addresses_are_short_the_holes_between_large_pages_are_used() {
    let mut space = IovaAllocator::new(Iova::new(16 * MIB2 - 1));
    let (large, page) = (IovaRequest::new(MIB2).aligned(MIB2), IovaRequest::new(KIB4));
    let pages: Vec<Iova> = core::iter::from_fn(|| space.alloc(large).ok()).collect();
    assert_eq!(pages.len(), 8);
    // Of each hole of 511 pages every other is a guard.
    let small: Vec<Iova> = core::iter::from_fn(|| space.alloc(page).ok()).collect();
    assert_eq!(small.len(), 8 * 255 + 1);
    for (iova, bytes) in
        pages.iter().map(|it| (*it, MIB2)).chain(small.iter().map(|it| (*it, KIB4)))
    {
        space.free(iova, bytes).unwrap();
    }
    assert_eq!(space.alloc(IovaRequest::new(16 * MIB2)), Ok(Iova::new(0)));
}

#[test]
fn the_pieces_of_a_large_range_leave_its_hole_free() {
    let mut space = space(SPACE48);
    let start = space.alloc(IovaRequest::new(MIB2).aligned(MIB2)).unwrap();
    space.split(start, [MIB2 / 2; 2]);
    let hole = range(start.get() + MIB2 + KIB4, MIB2 - KIB4);
    assert!(space.is_free(hole));
    for piece in [start.get(), start.get() + MIB2 / 2] {
        assert_eq!(space.free(Iova::new(piece), MIB2 / 2), Ok(()));
    }
    assert_eq!(space.alloc_at(start, 2 * MIB2, Guard::None), Ok(()));
}

#[test]
fn a_hole_that_fits_exactly_is_found_at_its_alignment() {
    let mut space = space(SPACE48);
    let request = IovaRequest::new(MIB2).aligned(MIB2);
    let buffers: Vec<Iova> = (0..100).map(|_| space.alloc(request).unwrap()).collect();
    for &buffer in buffers.iter().step_by(2) {
        space.free(buffer, MIB2).unwrap();
    }
    let mut again: Vec<Iova> = (0..50).map(|_| space.alloc(request).unwrap()).collect();
    again.sort();
    assert!(again.iter().eq(buffers.iter().step_by(2)));
}

#[test]
fn many_badly_aligned_holes_do_not_hide_the_room_behind_them() {
    let mut space = IovaAllocator::new(SPACE48);
    let base = 1 << 32;
    space.reserve(range(0, base + KIB4)).unwrap();
    for hole in 0..100 {
        // Seven free pages, none at a multiple of eight.
        space.reserve(range(base + (16 * hole + 8) * KIB4, 9 * KIB4)).unwrap();
    }
    let request = IovaRequest::new(4 * KIB4).aligned(8 * KIB4);
    assert_eq!(space.alloc(request), Ok(Iova::new(base + 1608 * KIB4)));
}

#[test]
fn r2_a_freed_range_is_the_next_to_be_given_out() {
    let mut space = space(SPACE48);
    let request = IovaRequest::new(4 * KIB4);
    let first = space.alloc(request).unwrap();
    let second = space.alloc(request).unwrap();
    space.free(second, 4 * KIB4).unwrap();
    space.free(first, 4 * KIB4).unwrap();
    assert_eq!(space.alloc(request), Ok(first));
    assert_eq!(space.alloc(request), Ok(second));
}

#[test]
fn r2_what_is_taken_out_of_hand_by_its_address_is_not_given_out_from_there_again() {
    let mut space = space(SPACE48);
    let page = IovaRequest::new(KIB4);
    let (one, other) = (space.alloc(page).unwrap(), space.alloc(page).unwrap());
    assert_eq!((space.free(one, KIB4), space.free(other, KIB4)), (Ok(()), Ok(())));
    // The one freed first is taken by its address. Its record goes, and is another one's now.
    assert_eq!(space.alloc_at(one, KIB4, Guard::None), Ok(()));
    assert_eq!(space.alloc(page), Ok(other));
    let third = space.alloc(page).unwrap();
    assert!(third != one && third != other);
    for live in [one, other, third] {
        assert_eq!(space.free(live, KIB4), Ok(()), "{live}");
        assert_eq!(space.free(live, KIB4), Err(IovaError::NotAllocated { iova: live }));
    }
    assert_eq!((space.allocations(), space.allocated_bytes()), (0, 0));
}

#[test]
fn pieces_that_are_freed_in_order_are_one_range_at_hand_again() {
    let mut space = space(SPACE48);
    let (chain, page) = (IovaRequest::new(16 * KIB4), IovaRequest::new(KIB4));
    let start = space.alloc(chain).unwrap();
    let before = space.alloc(page).unwrap();
    space.split(start, [KIB4; 16]);
    assert_eq!((space.allocations(), space.guard_bytes()), (17, 2 * KIB4));
    let piece = |number: u64| Iova::new(start.get() + number * KIB4);
    let mut pieces = 0..16;
    assert!(pieces.all(|number| space.free(piece(number), KIB4).is_ok()));
    // They are at hand, where no search looks.
    let beside = space.alloc(page).unwrap();
    assert!(beside > before);
    assert_eq!((space.alloc(chain), space.allocations()), (Ok(start), 3));
    // In another order they are free all the same.
    space.split(start, [KIB4; 16]);
    assert!((0..16).rev().all(|number| space.free(piece(number), KIB4).is_ok()));
    assert_eq!(space.alloc_at(start, 16 * KIB4, Guard::Page), Ok(()));
}

#[test]
fn many_that_are_freed_at_one_go_are_what_was_free_before() {
    let mut space = space(SPACE48);
    let before = space.free_pages();
    let mut space = self::space(SPACE48);
    let mut ranges: Vec<(Iova, u64)> = Vec::new();
    for request in [IovaRequest::new(KIB4), IovaRequest::new(MIB2).aligned(MIB2)] {
        let taken = (0..200).map(|_| (space.alloc(request).unwrap(), request.bytes));
        ranges.extend(taken.collect::<Vec<_>>());
    }
    // One stays, in the middle of those that go.
    let stays = ranges.remove(120);
    assert_eq!(space.free_all(&ranges), Ok(()));
    assert_eq!((space.allocations(), space.allocated_bytes()), (1, KIB4));
    let twice = Err(IovaError::NotAllocated { iova: ranges[150].0 });
    assert_eq!(space.free_all(&[stays, ranges[150]]), twice);
    assert_eq!((space.allocations(), space.free_pages()), (0, before));
}

#[test]
fn low_addresses_at_hand_are_not_wasted_on_a_wide_mask() {
    let mut space = space(SPACE48);
    let low = space.alloc(IovaRequest::new(KIB4).below(MASK28)).unwrap();
    space.free(low, KIB4).unwrap();
    assert_eq!(space.alloc(IovaRequest::new(KIB4)), Ok(Iova::new(1 << 32)));
    assert_eq!(space.alloc(IovaRequest::new(KIB4).below(MASK28)), Ok(low));
}

#[test]
fn what_is_at_hand_is_merged_before_a_request_fails() {
    let mut space = IovaAllocator::new(Iova::new(16 * KIB4 - 1));
    let pages: Vec<Iova> = (0..8).map(|_| space.alloc(IovaRequest::new(KIB4)).unwrap()).collect();
    for page in pages {
        space.free(page, KIB4).unwrap();
    }
    assert!(space.is_free(range(0, 16 * KIB4)));
    assert_eq!(space.alloc(IovaRequest::new(16 * KIB4)), Ok(Iova::new(0)));
}

#[test]
fn thousands_freed_out_of_order_become_what_was_free_before() {
    let mut space = space(SPACE48);
    let before = space.free_pages();
    let sizes = (0..5000u64).map(|number| (1 + number * 7 % 40) * KIB4);
    let buffers: Vec<(Iova, u64)> =
        sizes.map(|bytes| (space.alloc(IovaRequest::new(bytes)).unwrap(), bytes)).collect();
    assert_eq!(space.allocations(), 5000);
    for number in 0..5000 {
        let (iova, bytes) = buffers[number * 1237 % 5000];
        space.free(iova, bytes).unwrap();
    }
    assert_eq!(space.free_pages(), before);
}

#[test]
fn a_full_reach_and_a_full_space_are_different_errors() {
    let mut space = space(SPACE48);
    let request = IovaRequest::new(1 << 28).below(MASK28);
    assert_eq!(
        space.alloc(request),
        Err(IovaError::NoRoomUnderLimit {
            bytes: 1 << 28,
            align: KIB4,
            limit: MASK28,
            longest: (1 << 28) - KIB4,
        })
    );
    let longest = (1 << 48) - 0xfef0_0000;
    assert_eq!(
        space.alloc(IovaRequest::new(1 << 48)),
        Err(IovaError::NoRoom { bytes: 1 << 48, align: KIB4, longest })
    );
}

#[test]
fn r7_a_free_that_does_not_match_exactly_changes_nothing() {
    let mut space = space(SPACE48);
    let buffer = space.alloc(IovaRequest::new(2 * KIB4)).unwrap();
    let allocation = IovaRange::new(buffer, 2 * KIB4);
    for bytes in [0, KIB4, 2 * KIB4 + 1, 3 * KIB4, u64::MAX] {
        let mismatch = Err(IovaError::SizeMismatch { allocation, bytes });
        assert_eq!(space.free(buffer, bytes), mismatch);
    }
    for iova in [buffer.get() + 1, buffer.get() + KIB4, 0, KIB4, u64::MAX].map(Iova::new) {
        assert_eq!(space.free(iova, KIB4), Err(IovaError::NotAllocated { iova }));
    }
    assert!(space.allocated().eq([allocation]));
    assert_eq!(space.free(buffer, 2 * KIB4), Ok(()));
    assert_eq!(
        space.free(buffer, 2 * KIB4),
        Err(IovaError::NotAllocated { iova: buffer }),
        "a double free"
    );
}

#[test]
fn overlapping_reservations_become_one() {
    let mut space = IovaAllocator::new(SPACE48);
    for (start, bytes) in [(0x1000, 0x1000), (0x4000, 0x2000), (0x8000, 1), (0x8fff, 0x11)] {
        space.reserve(range(start, bytes)).unwrap();
    }
    let known = [range(0x1000, 0x1000), range(0x4000, 0x2000), range(0x8000, 0x2000)];
    assert!(space.reserved().eq(known));
    space.reserve(range(0x1800, 0x3000)).unwrap();
    assert!(space.reserved().eq([range(0x1000, 0x5000), range(0x8000, 0x2000)]));
    assert_eq!(space.free_pages(), [0..1, 6..8, 10..(1 << 36) + 1]);
}

#[test]
fn what_is_reserved_outside_the_space_is_none_of_its_business() {
    let mut space = space(MASK28);
    assert!(space.reserved().eq([PAGE_ZERO]));
    space.reserve(range((1 << 28) - KIB4, 2 * KIB4)).unwrap();
    assert!(space.reserved().eq([PAGE_ZERO, range((1 << 28) - KIB4, KIB4)]));
}

#[test]
fn fixed_windows_lie_side_by_side_when_they_have_no_guards() {
    let mut space = space(SPACE48);
    for window in 1..=4 {
        assert_eq!(space.alloc_at(Iova::new(window * KIB4), KIB4, Guard::None), Ok(()));
    }
    assert_eq!((space.allocated_bytes(), space.guard_bytes()), (4 * KIB4, 0));
    assert_eq!(space.free(Iova::new(2 * KIB4), KIB4), Ok(()));
    assert!(space.is_free(range(2 * KIB4, KIB4)));
    assert!(!space.is_free(range(2 * KIB4, 2 * KIB4)));
}

#[test]
fn what_one_allocator_gave_out_another_takes_over() {
    let mut before = space(SPACE48);
    for pages in 1..200 {
        before.alloc(IovaRequest::new(pages * KIB4)).unwrap();
    }
    let mut after = space(SPACE48);
    for held in before.allocated() {
        after.alloc_at(held.start, held.bytes, Guard::Page).unwrap();
    }
    assert!(before.allocated().eq(after.allocated()));
    assert_eq!(before.free_pages(), after.free_pages());
    for held in before.allocated() {
        after.free(held.start, held.bytes).unwrap();
    }
    assert_eq!(after.free_pages(), space(SPACE48).free_pages());
}

#[test]
fn nothing_is_given_out_below_the_requests_first_address() {
    let mut space = space(Iova::new(u64::from(u32::MAX)));
    // Freed lower down, where a request of this size would else find it first.
    let low = space.alloc(IovaRequest::new(0x1000)).unwrap();
    space.free(low, 0x1000).unwrap();
    for first in [low.get() + 0x1000, low.get() + 0x1001, 0x1_0000, 0xf000_0000] {
        let request = IovaRequest::new(0x1000).from(Iova::new(first));
        let start = space.alloc(request).unwrap();
        assert!(start.get() >= first, "{start} is below {first:#x}");
        space.free(start, 0x1000).unwrap();
    }
    // As much as fits between the two, and no more.
    let within = IovaRequest::new(0x1000).from(Iova::new(0x1_0000)).below(Iova::new(0x1_3fff));
    let starts: Vec<u64> =
        core::iter::from_fn(|| space.alloc(within).ok()).map(Iova::get).collect();
    assert_eq!(starts, [0x1_0000, 0x1_2000]);
    assert!(space.alloc(IovaRequest::new(0x1000).from(Iova::new(u64::MAX))).is_err());
}
