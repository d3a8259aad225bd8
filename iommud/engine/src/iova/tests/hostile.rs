//! Rule R5: whatever is asked, the answer is an error of its own, and nothing has changed.

use dma_types::Iova;

use crate::iova::{Guard, IovaAllocator, IovaError, IovaRange, IovaRequest};

const EVERYWHERE: Iova = Iova::new(u64::MAX);
const LAST57: Iova = Iova::new((1 << 57) - 1);

#[test]
fn r5_sizes_that_are_none() {
    let mut space = IovaAllocator::new(LAST57);
    let at = |bytes| IovaAllocator::new(LAST57).alloc_at(Iova::new(4096), bytes, Guard::Page);
    assert_eq!(space.alloc(IovaRequest::new(0)), Err(IovaError::ZeroSize));
    assert_eq!(at(0), Err(IovaError::ZeroSize));
    assert_eq!(space.reserve(IovaRange::new(Iova::new(4096), 0)), Err(IovaError::ZeroSize));
    for bytes in [1, 4095, 4097, u64::MAX] {
        assert_eq!(space.alloc(IovaRequest::new(bytes)), Err(IovaError::NotPages { bytes }));
        assert_eq!(at(bytes), Err(IovaError::NotPages { bytes }));
    }
    assert!(!space.is_free(IovaRange::new(Iova::new(4096), 0)));
    assert!(!space.is_free(IovaRange::new(Iova::new(4096), 1)));
}

#[test]
fn r5_alignments_that_are_none() {
    let mut space = IovaAllocator::new(LAST57);
    for align in [0, 1, 2048, 4097, 12288, u64::MAX] {
        let request = IovaRequest::new(4096).aligned(align);
        assert_eq!(space.alloc(request), Err(IovaError::BadAlignment { align }));
    }
}

#[test]
fn r5_huge_alignments_find_the_only_address_there_is() {
    for order in 57..64 {
        let mut space = IovaAllocator::new(EVERYWHERE);
        let request = IovaRequest::new(4096).aligned(1 << order);
        assert_eq!(space.alloc(request), Ok(Iova::new(0)));
        assert!(matches!(space.alloc(request), Err(IovaError::NoRoom { .. })));
    }
}

#[test]
fn r5_huge_sizes_have_no_room() {
    let mut space = IovaAllocator::new(EVERYWHERE);
    for bytes in [(1 << 57) + 4096, 1 << 58, 1 << 63, u64::MAX - 4095] {
        for align in [4096, 1 << 21, 1 << 63] {
            let request = IovaRequest::new(bytes).aligned(align);
            let no_room = IovaError::NoRoom { bytes, align, longest: 1 << 57 };
            assert_eq!(space.alloc(request), Err(no_room));
        }
    }
    assert_eq!(space.alloc(IovaRequest::new(1 << 57)), Ok(Iova::new(0)));
}

#[test]
fn r5_limits_below_the_first_page_have_no_room() {
    let mut space = IovaAllocator::new(LAST57);
    for limit in [0, 1, 4094].map(Iova::new) {
        let request = IovaRequest::new(4096).below(limit);
        let no_room = IovaError::NoRoomUnderLimit { bytes: 4096, align: 4096, limit, longest: 0 };
        assert_eq!(space.alloc(request), Err(no_room));
    }
    let request = IovaRequest::new(4096).below(Iova::new(4095));
    assert_eq!(space.alloc(request), Ok(Iova::new(0)));
}

#[test]
fn r5_a_limit_within_a_page_does_not_count_that_page() {
    let mut space = IovaAllocator::new(LAST57);
    let request = IovaRequest::new(4096).below(Iova::new(3 * 4096 - 2));
    assert_eq!(space.alloc(request), Ok(Iova::new(4096)));
    assert!(matches!(space.alloc(request), Err(IovaError::NoRoomUnderLimit { .. })));
}

#[test]
fn r5_a_space_of_less_than_a_page_is_empty() {
    for limit in [0, 4094].map(Iova::new) {
        let mut space = IovaAllocator::new(limit);
        let no_room = IovaError::NoRoom { bytes: 4096, align: 4096, longest: 0 };
        assert_eq!(space.alloc(IovaRequest::new(4096)), Err(no_room));
        assert_eq!(space.last(), Iova::new(0));
        let first = IovaRange::new(Iova::new(0), 4096);
        assert!(!space.is_free(first));
        assert_eq!(space.reserve(first), Ok(()));
        let outside = IovaError::OutsideSpace { range: first, last: Iova::new(0) };
        assert_eq!(space.alloc_at(Iova::new(0), 4096, Guard::None), Err(outside));
    }
}

#[test]
fn r5_chosen_addresses_outside_the_space_are_refused() {
    let mut space = IovaAllocator::new(EVERYWHERE);
    assert_eq!(space.last(), LAST57);
    for (start, bytes) in
        [(1 << 57, 4096), (!4095, 4096), ((1 << 57) - 4096, 8192), (4096, 1 << 63)]
    {
        let range = IovaRange::new(Iova::new(start), bytes);
        let outside = Err(IovaError::OutsideSpace { range, last: LAST57 });
        assert_eq!(space.alloc_at(range.start, bytes, Guard::Page), outside);
        assert!(!space.is_free(range));
    }
    let iova = Iova::new(4097);
    let refused = Err(IovaError::NotPageStart { iova });
    assert_eq!(space.alloc_at(iova, 4096, Guard::Page), refused);
}

#[test]
fn r5_a_reservation_past_64_bits_is_refused_and_one_past_the_space_is_cut() {
    let mut space = IovaAllocator::new(LAST57);
    let range = IovaRange::new(Iova::new(4096), u64::MAX);
    assert_eq!(space.reserve(range), Err(IovaError::OutsideSpace { range, last: LAST57 }));
    assert_eq!(space.reserve(IovaRange::new(Iova::new(0), u64::MAX)), Ok(()));
    assert!(space.reserved().eq([IovaRange::new(Iova::new(0), 1 << 57)]));
    assert!(matches!(
        space.alloc(IovaRequest::new(4096)),
        Err(IovaError::NoRoom { longest: 0, .. })
    ));
}

#[test]
fn r5_addresses_of_every_magnitude_come_and_go() {
    let mut space = IovaAllocator::new(EVERYWHERE);
    let starts = || (13..57).map(|bit| Iova::new(1 << bit));
    for start in starts() {
        assert_eq!(space.alloc_at(start, 4096, Guard::None), Ok(()));
    }
    assert!(space.allocated().map(|range| range.start).eq(starts()));
    for start in starts() {
        assert_eq!(space.free(start, 4096), Ok(()));
    }
    assert_eq!(space.free_pages(), IovaAllocator::new(EVERYWHERE).free_pages());
}
