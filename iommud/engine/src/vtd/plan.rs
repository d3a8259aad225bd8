//! The fewest requests that make a unit forget a range of addresses.
//!
//! A page-selective request names a power of two of pages, aligned to its size, so that an exact cover
//! of a range can need a dozen. Here one or two slightly larger blocks do: what is forgotten besides
//! is less than the range itself, of the same domain, and costs a table walk if it is needed again.

use super::invalidation::Invalidation;
use super::second_stage::{ORDER_1G, ORDER_2M};
use crate::blocks::{PageBlock, Pages};
use crate::table::format::PAGE_SHIFT;
use crate::unit::{Changed, DomainId, Requests};

/// The most page-selective requests worth making instead of forgetting the whole domain.
///
/// A range that needs more is larger than the unit's largest block several times over (with the mask of
/// 18 that units usually have, larger than 4 GiB), far beyond what an IOTLB holds: little of the domain
/// would be spared, and each request takes its time in the queue.
const MOST_REQUESTS: u64 = 4;

/// The orders of the large pages, as powers of two of pages. One request must cover such a page as a whole (6.5.2.3).
const LARGE_PAGES: [u8; 2] = [(ORDER_2M - PAGE_SHIFT) as u8, (ORDER_1G - PAGE_SHIFT) as u8];

/// Finds what makes a unit forget all of these changes of a domain: the whole of it, if that were too many requests.
///
/// `page_selective` is the unit's
/// [`Capability::page_selective`](super::registers::Capability::page_selective). Pages count whole
/// from the first byte they share with a range, 4 KiB pages, that is: where a part of a large page
/// has changed (it was split), the range must be all of the large page, since that is what the unit
/// has cached.
pub fn forgetting(
    domain: DomainId,
    changes: &[Changed],
    page_selective: Option<u8>,
    requests: &mut Requests<Invalidation>,
) {
    requests.clear();
    let covered = changes.iter().try_for_each(|change| {
        let Some(range) = Pages::of(change.start, change.bytes) else { return Some(()) };
        let touched = change.touched;
        let request = |pages| Invalidation::IotlbPages { domain, pages, touched };
        cover(range, page_selective?, |pages| requests.try_push(request(pages)).ok())
    });
    if covered.is_none() {
        requests.clear();
        requests.push(Invalidation::IotlbDomain(domain));
    }
}

/// Covers a range with blocks of at most order `mask`, in order of address. `None` if the whole domain is better
/// forgotten.
#[inline]
fn cover(range: Pages, mask: u8, mut with: impl FnMut(PageBlock) -> Option<()>) -> Option<()> {
    if let Some(block) = range.as_one_block()
        && block.order() <= mask
    {
        return with(block);
    }
    let (left, right) = range.parts();
    let mut count = 0;
    for part in [Some(left), right].into_iter().flatten() {
        let order = part.order();
        if LARGE_PAGES.iter().any(|&large| mask < large && large <= order) {
            return None;
        }
        let order = order.min(mask);
        let (first, last) = (part.first >> order, part.last >> order);
        count += last - first + 1;
        if count > MOST_REQUESTS {
            return None;
        }
        for block in first..=last {
            with(PageBlock::around(block << order, order))?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::unit::{MOST_AT_ONCE, Touched};
    use crate::vtd::descriptor::{Descriptor, PageRequests};
    use crate::vtd::registers::Drain;
    use dma_types::{Iova, PAGE_SIZE};
    use proptest::prelude::*;
    use std::vec::Vec;

    const DOMAIN: DomainId = DomainId::new(5);

    fn requests(changes: &[Changed], mask: Option<u8>) -> Requests<Invalidation> {
        let mut requests = Requests::new();
        forgetting(DOMAIN, changes, mask, &mut requests);
        requests
    }

    /// The blocks of a plan, as page number and order, or `None` if it forgets the domain.
    fn blocks(start: u64, bytes: u64, mask: Option<u8>) -> Option<Vec<(u64, u8)>> {
        let change = Changed { start: Iova::new(start), bytes, touched: Touched::Leaves };
        let requests = requests(&[change], mask);
        let of = |request: &Invalidation| match *request {
            Invalidation::IotlbPages { domain, pages, touched } => {
                assert_eq!((domain, touched), (DOMAIN, Touched::Leaves));
                // Aligned, as the constructor for everybody else demands.
                assert_eq!(PageBlock::new(pages.first(), pages.order()), Some(pages));
                Some((pages.first().get() / PAGE_SIZE, pages.order()))
            }
            Invalidation::IotlbDomain(domain) => {
                assert_eq!((domain, requests.as_slice().len()), (DOMAIN, 1));
                None
            }
            other => panic!("{other:?}"),
        };
        requests.as_slice().iter().map(of).collect()
    }

    #[test]
    fn r2_many_changes_are_a_request_each_or_one_for_the_whole_domain() {
        let pages = |count| -> Vec<Changed> {
            let page = |index| Changed {
                start: Iova::new(index * 0x10_0000),
                bytes: PAGE_SIZE,
                touched: Touched::Leaves,
            };
            (1..=count).map(page).collect()
        };
        let most = MOST_AT_ONCE as u64;
        let each = requests(&pages(most), Some(18));
        assert_eq!(each.len(), MOST_AT_ONCE);
        assert!(each.iter().all(|it| matches!(it, Invalidation::IotlbPages { .. })));
        let whole = [Invalidation::IotlbDomain(DOMAIN)];
        let of =
            |changes: &[Changed], selective| -> Vec<_> { requests(changes, selective).to_vec() };
        assert_eq!(of(&pages(most + 1), Some(18)), whole);
        assert_eq!(of(&pages(2), None), whole, "it knows no pages");
        let mut with_a_huge_one = pages(2);
        with_a_huge_one[1].bytes = u64::MAX;
        assert_eq!(of(&with_a_huge_one, Some(18)), whole);
        assert_eq!(of(&[], Some(18)), []);
    }

    #[test]
    fn an_aligned_power_of_two_is_one_request() {
        assert_eq!(blocks(0x1000, 0x1000, Some(18)), Some([(1, 0)].into()));
        assert_eq!(blocks(0x1234, 4, Some(18)), Some([(1, 0)].into()));
        assert_eq!(blocks(0x20_0000, 0x20_0000, Some(18)), Some([(0x200, 9)].into()));
        assert_eq!(blocks(0x4000_0000, 0x4000_0000, Some(18)), Some([(0x4_0000, 18)].into()));
    }

    #[test]
    fn an_odd_range_is_one_or_two_requests() {
        // Pages 1 to 7: one block of 8.
        assert_eq!(blocks(0x1000, 0x7000, Some(18)), Some([(0, 3)].into()));
        // Two pages, on both sides of a GiB.
        assert_eq!(
            blocks(0x3fff_f000, 0x2000, Some(18)),
            Some([(0x3_ffff, 0), (0x4_0000, 0)].into())
        );
        // Pages 7 to 12: 7, and 8 to 15.
        assert_eq!(blocks(0x7000, 0x6000, Some(18)), Some([(7, 0), (8, 3)].into()));
    }

    #[test]
    fn r2_a_change_of_one_block_is_the_request_that_a_plan_of_it_has() {
        let drain = Drain { reads: true, writes: false };
        for (start, bytes, touched) in [
            (0x1000, 0x1000, Touched::Leaves),
            (0x1000, 0x1000, Touched::Tables),
            (0x1000, 0x7000, Touched::Leaves),
            (0x7000, 0x6000, Touched::Leaves),
            (0x20_0000, 0x20_0000, Touched::Leaves),
            (0, 5 << 30, Touched::Tables),
            (0x1000, 0, Touched::Leaves),
        ] {
            let change = Changed { start: Iova::new(start), bytes, touched };
            for mask in [0, 2, 18] {
                let planned = match requests(&[change], Some(mask))[..] {
                    [request @ Invalidation::IotlbPages { .. }] => {
                        Some(Descriptor::invalidating(request, drain))
                    }
                    _ => None,
                };
                let request = PageRequests::new(mask, drain).forgetting(DOMAIN, &change);
                assert_eq!(request, planned.map(Descriptor::words), "{change:?}");
            }
        }
    }

    #[test]
    fn an_empty_range_is_no_request() {
        assert_eq!(blocks(0x1000, 0, Some(18)), Some(Vec::new()));
        assert_eq!(blocks(0x1000, 0, None), Some(Vec::new()));
    }

    #[test]
    fn a_range_too_large_for_its_unit_forgets_the_domain() {
        assert_eq!(blocks(0, 4 << 30, Some(18)).unwrap().len(), 4);
        assert_eq!(blocks(0, 5 << 30, Some(18)), None);
        assert_eq!(blocks(0x1000, 0x1000, None), None);
        assert_eq!(blocks(0, 0x4000, Some(0)).unwrap().len(), 4);
        assert_eq!(blocks(0, 0x5000, Some(0)), None);
    }

    #[test]
    fn a_large_page_is_never_forgotten_in_pieces() {
        assert_eq!(blocks(0x20_0000, 0x20_0000, Some(8)), None);
        assert_eq!(blocks(0x20_0000, 0x20_0000, Some(9)), Some([(0x200, 9)].into()));
        assert_eq!(blocks(0x4000_0000, 0x4000_0000, Some(17)), None);
    }

    #[test]
    fn r5_a_range_past_the_end_of_the_space_stops_there() {
        assert_eq!(blocks(u64::MAX, u64::MAX, Some(18)), Some([((1 << 52) - 1, 0)].into()));
        assert_eq!(blocks(0, u64::MAX, Some(18)), None);
        assert_eq!(blocks(0, u64::MAX, Some(63)), Some([(0, 52)].into()));
    }

    /// Ranges of every size and place, most of them small.
    fn ranges() -> impl Strategy<Value = (u64, u64)> {
        (0u32..64, 0u32..64, any::<u64>(), any::<u64>())
            .prop_map(|(a, b, start, bytes)| (start >> a, bytes >> b))
    }

    proptest! {
        #[test]
        fn r2_a_plan_covers_its_range_with_blocks_the_unit_takes(
            (start, bytes) in ranges(),
            mask in 0u8..64,
        ) {
            if let Some(blocks) = blocks(start, bytes, Some(mask)) {
                prop_assert!(blocks.len() as u64 <= MOST_REQUESTS);
                prop_assert!(blocks.iter().all(|&(_, order)| order <= mask));
                // Blocks come in order of address: walk along them from the first page to the last.
                let mut next = start / PAGE_SIZE;
                for (first, order) in blocks {
                    prop_assert!(first <= next);
                    next = next.max(first + (1 << order));
                }
                if bytes > 0 {
                    prop_assert!(next > start.saturating_add(bytes - 1) / PAGE_SIZE);
                }
            }
        }

        #[test]
        fn a_plan_of_pages_forgets_less_than_twice_what_it_must((start, bytes) in ranges()) {
            if let Some(blocks) = blocks(start, bytes, Some(52)) {
                let must = match bytes.checked_sub(1) {
                    Some(rest) => start.saturating_add(rest) / PAGE_SIZE - start / PAGE_SIZE + 1,
                    None => 0,
                };
                prop_assert!(blocks.len() <= 2);
                prop_assert!(blocks.iter().map(|&(_, order)| 1 << order).sum::<u64>() <= 2 * must);
            }
        }

        #[test]
        fn every_large_page_in_the_range_lies_in_one_block(
            (start, bytes) in ranges(),
            mask in 0u8..64,
            at in any::<u64>(),
            large in prop::sample::select(&LARGE_PAGES[..]),
        ) {
            let size = PAGE_SIZE << large;
            let (first, end) = (start.div_ceil(size), start.saturating_add(bytes) / size);
            if first < end && let Some(blocks) = blocks(start, bytes, Some(mask)) {
                let page = (first + at % (end - first)) << large;
                let whole = |&(block, order): &(u64, u8)| {
                    block <= page && page + (1 << large) <= block + (1 << order)
                };
                prop_assert!(blocks.iter().any(whole));
            }
        }
    }
}
