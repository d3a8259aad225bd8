//! The allocator of I/O addresses, by itself.

use alloc::format;
use alloc::vec::Vec;

use dma_types::{Iova, PAGE_SIZE};
use iommu_engine::iova::{IovaAllocator, IovaRequest};

use super::measure::{Order, Pairs, ROUNDS, WARM_UP};
use crate::harness::{Context, Outcome};

/// How many ranges are live, each time.
pub(super) const LIVE: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// How many ranges of those that are live are given back before as many are taken.
pub(super) const TURN: usize = 16;

/// The same where it is more than a magazine of ours holds.
const LARGE_TURN: usize = 512;

pub(super) fn addresses_with_many_live(_: &mut Context) -> Outcome {
    for count in LIVE {
        same_size(count, TURN)?.tell(&format!("iova/{count}"));
        mixed_sizes(count)?.tell(&format!("iova-mixed/{count}"));
        same_size(count, LARGE_TURN)?.tell(&format!("iova-512/{count}"));
    }
    Ok(())
}

/// Addresses for single pages.
fn same_size(count: usize, turn: usize) -> Outcome<Pairs> {
    churn(count, turn, |_| PAGE_SIZE)
}

/// Addresses for 1 to 32 pages.
fn mixed_sizes(count: usize) -> Outcome<Pairs> {
    let mut sizes = Order::new();
    churn(count, TURN, |_| (1 + sizes.below(32)) as u64 * PAGE_SIZE)
}

/// With `count` ranges live, some at random are given back and as many are taken again, over and over.
fn churn(count: usize, at_once: usize, mut size: impl FnMut(usize) -> u64) -> Outcome<Pairs> {
    let mut space = IovaAllocator::new(Iova::new((1 << 48) - 1));
    let mut live = Vec::with_capacity(count);
    for number in 0..count {
        let bytes = size(number);
        live.push((space.alloc(IovaRequest::new(bytes))?, bytes));
    }
    let mut order = Order::new();
    let mut pairs = Pairs::new(WARM_UP + ROUNDS + 2 * at_once);
    let mut turn = Vec::with_capacity(at_once);
    let warm = WARM_UP.div_ceil(at_once);
    for round in 0..warm + ROUNDS.div_ceil(at_once) {
        if round == warm {
            pairs.forget();
        }
        for _ in 0..at_once {
            let (iova, bytes) = live.swap_remove(order.below(live.len()));
            pairs.undo.take(|| space.free(iova, bytes))?;
            turn.push(bytes);
        }
        for bytes in turn.drain(..) {
            live.push((pairs.make.take(|| space.alloc(IovaRequest::new(bytes)))?, bytes));
        }
    }
    Ok(pairs)
}
