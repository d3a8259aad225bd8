//! The fewest commands that make a unit forget a range of addresses.
//!
//! A command names a power of two of pages, aligned to its size, and there is no largest. One or two blocks do
//! for any range: what is forgotten besides is less than the range itself, of the same domain, and costs a
//! table walk if it is needed again.

use super::command::Command;
use super::invalidation::Invalidation;
use crate::blocks::{PageBlock, Pages};
use crate::unit::{Changed, DomainId, Requests};

/// The largest block that a command names. Addresses are sign-extended from bit 51, and the highest bit of a
/// block's number of pages must be below; larger than 2^52 bytes, the whole domain is forgotten.
const LARGEST_ORDER: u8 = 40;

/// Finds what must be forgotten of a domain for these changes: the whole of it, if they were too many.
///
/// Pages count whole from the first byte they share with a range, 4 KiB pages, that is: where a part of a
/// large page has changed (it was split), the range must be all of the large page, since that is what the unit
/// has cached. Such a page then lies in one of the blocks, because it does not reach across the middle of a
/// larger one.
pub fn forgetting(domain: DomainId, changes: &[Changed], requests: &mut Requests<Invalidation>) {
    requests.clear();
    let covered = changes.iter().try_for_each(|change| {
        let Some((left, right)) = Pages::of(change.start, change.bytes).map(Pages::parts) else {
            return Some(());
        };
        [Some(left), right].into_iter().flatten().try_for_each(|part| {
            let order = part.order();
            let pages = PageBlock::around(part.first, order);
            let touched = change.touched;
            let named = Invalidation::Pages { domain, pages, touched };
            if order <= LARGEST_ORDER { requests.try_push(named).ok() } else { None }
        })
    });
    if covered.is_none() {
        requests.clear();
        requests.push(Invalidation::Domain(domain));
    }
}

/// The command that makes a unit forget a change by which a single block of pages is out of use, as most are. `None` where it
/// takes more than that.
#[inline]
pub fn of_one_block(domain: DomainId, change: &Changed) -> Option<Command> {
    let pages = Pages::one_block(change.start, change.bytes)?;
    if pages.order() > LARGEST_ORDER {
        return None;
    }
    Some(Command::forgetting(domain, pages, change.touched))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::unit::{MOST_AT_ONCE, Touched};
    use dma_types::{Iova, PAGE_SIZE};
    use proptest::prelude::*;
    use std::vec::Vec;

    const DOMAIN: DomainId = DomainId::new(5);

    fn requests(changes: &[Changed]) -> Requests<Invalidation> {
        let mut requests = Requests::new();
        forgetting(DOMAIN, changes, &mut requests);
        requests
    }

    /// The blocks of a plan, as page number and order. A forgotten domain is one of all pages.
    fn blocks(start: u64, bytes: u64) -> Vec<(u64, u8)> {
        let change = Changed { start: Iova::new(start), bytes, touched: Touched::Leaves };
        let of = |invalidation| match invalidation {
            Invalidation::Pages { domain, pages, touched } => {
                assert_eq!((domain, touched), (DOMAIN, Touched::Leaves));
                assert_eq!(PageBlock::new(pages.first(), pages.order()), Some(pages));
                (pages.first().get() / PAGE_SIZE, pages.order())
            }
            Invalidation::Domain(domain) => {
                assert_eq!(domain, DOMAIN);
                (0, 52)
            }
            other => panic!("{other:?}"),
        };
        requests(&[change]).into_iter().map(of).collect()
    }

    #[test]
    fn r2_many_changes_are_a_command_each_or_one_for_the_whole_domain() {
        let page = |index: u64| Changed {
            start: Iova::new(index * 0x10_0000),
            bytes: PAGE_SIZE,
            touched: Touched::Leaves,
        };
        let mut changes: Vec<_> = (1..=MOST_AT_ONCE as u64).map(page).collect();
        let each = requests(&changes);
        assert_eq!(each.len(), MOST_AT_ONCE);
        assert!(each.iter().all(|it| matches!(it, Invalidation::Pages { .. })));
        changes.push(page(1000));
        let whole = [Invalidation::Domain(DOMAIN)];
        assert_eq!(requests(&changes)[..], whole);
        let huge = [page(1), Changed { bytes: u64::MAX, ..page(2) }];
        assert_eq!(requests(&huge)[..], whole);
        assert_eq!(requests(&[])[..], []);
    }

    #[test]
    fn a_range_is_one_or_two_blocks() {
        assert_eq!(blocks(0x1000, 0x1000), [(1, 0)]);
        assert_eq!(blocks(0x1234, 4), [(1, 0)]);
        assert_eq!(blocks(0x4000_0000, 0x4000_0000), [(0x4_0000, 18)]);
        // Pages 1 to 7; two pages on both sides of a GiB; pages 7 to 12.
        assert_eq!(blocks(0x1000, 0x7000), [(0, 3)]);
        assert_eq!(blocks(0x3fff_f000, 0x2000), [(0x3_ffff, 0), (0x4_0000, 0)]);
        assert_eq!(blocks(0x7000, 0x6000), [(7, 0), (8, 3)]);
        assert_eq!(blocks(0x1000, 0), []);
    }

    #[test]
    fn r2_a_change_of_one_block_is_the_command_that_a_plan_of_it_has() {
        let touched = Touched::Tables;
        for (start, bytes) in [
            (0x1000, 0x1000),
            (0x1000, 0x7000),
            (0x7000, 0x6000),
            (0, 1 << 52),
            (0, 1 << 53),
            (0x1000, 0),
        ] {
            let change = Changed { start: Iova::new(start), bytes, touched };
            let planned = match requests(&[change])[..] {
                [request @ Invalidation::Pages { .. }] => Some(Command::invalidating(request)),
                _ => None,
            };
            assert_eq!(of_one_block(DOMAIN, &change), planned, "{change:?}");
        }
    }

    #[test]
    fn r5_a_range_beyond_what_a_command_names_forgets_the_domain() {
        assert_eq!(blocks(0, 1 << 52), [(0, 40)]);
        assert_eq!(blocks(0, 1 << 53), [(0, 52)]);
        assert_eq!(blocks(u64::MAX, u64::MAX), [((1 << 52) - 1, 0)]);
        assert_eq!(blocks(0, u64::MAX), [(0, 52)]);
    }

    proptest! {
        #[test]
        fn r2_a_plan_covers_its_range_and_every_large_page_in_it(
            (a, b, start, bytes) in (0u32..64, 0u32..64, any::<u64>(), any::<u64>()),
            at in any::<u64>(),
            large in 1u8..40,
        ) {
            let (start, bytes) = (start >> a, bytes >> b);
            let blocks = blocks(start, bytes);
            if bytes > 0 {
                let mut next = start / PAGE_SIZE;
                for &(first, order) in &blocks {
                    prop_assert!(first <= next);
                    next = next.max(first + (1 << order));
                }
                prop_assert!(next > start.saturating_add(bytes - 1) / PAGE_SIZE);
            }
            let size = PAGE_SIZE << large;
            let (first, end) = (start.div_ceil(size), start.saturating_add(bytes) / size);
            if first < end {
                let page = (first + at % (end - first)) << large;
                let whole = |&(block, order): &(u64, u8)| {
                    block <= page && page + (1 << large) <= block + (1 << order)
                };
                prop_assert!(blocks.iter().any(whole));
            }
        }
    }
}
