//! Which parts of a span of memory are free.

use alloc::vec::Vec;
use core::ops::Range;

use super::bits::Bits;

/// How many free blocks of an order are left apart when their buddies are free, too. A driver that gives a block back
/// mostly takes one like it next, and would have it split off again.
const APART: u32 = 8;

/// Which parts of a span are free, in units: a buddy allocator. A block of order n is 2^n units and lies at a multiple
/// of that.
///
/// All that it knows is in memory of its own. The span itself is a device's to write, and is never looked at.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// For each order the free blocks, numbered from the start of the span.
    free: Vec<Order>,
    /// A bit for each order of which there is a free block.
    ready: u32,
    /// Whether there may be two free blocks that are a larger one together.
    is_loose: bool,
}

#[derive(Debug)]
struct Order {
    blocks: Bits,
    count: u32,
}

impl Buddy {
    /// The largest span that there can be.
    pub(crate) const LIMIT: usize = Bits::LIMIT;

    /// A span of this many units, a power of two up to [`LIMIT`](Self::LIMIT), all of which are taken.
    pub(crate) fn taken(units: usize) -> Self {
        debug_assert!(units.is_power_of_two() && units <= Self::LIMIT);
        let order = |order: u32| Order { blocks: Bits::new(units >> order), count: 0 };
        Self { free: (0..=units.ilog2()).map(order).collect(), ready: 0, is_loose: false }
    }

    /// A span of this many units, all of which are free.
    pub(crate) fn new(units: usize) -> Self {
        let mut buddy = Self::taken(units);
        buddy.insert(units.ilog2(), 0);
        buddy
    }

    /// Takes a block of an order: where it starts.
    pub(crate) fn alloc(&mut self, order: u32) -> Option<usize> {
        if self.ready.checked_shr(order).unwrap_or(0) == 0 {
            if !self.is_loose {
                return None;
            }
            self.join();
        }
        let above = self.ready.checked_shr(order).filter(|ready| *ready != 0)?;
        let found = order + above.trailing_zeros();
        let block = self.free[found as usize].blocks.first()?;
        self.remove(found, block);
        self.split(block << found, found, order);
        Some(block << found)
    }

    /// Gives back a block that [`alloc`](Self::alloc) took.
    pub(crate) fn free(&mut self, unit: usize, order: u32) {
        let mut order = order;
        let mut block = unit >> order;
        debug_assert!(!self.is_free(unit), "a block is given back once");
        if self.free[order as usize].count < APART {
            self.is_loose |= self.has(order, block ^ 1);
        } else {
            while self.has(order, block ^ 1) {
                self.remove(order, block ^ 1);
                block >>= 1;
                order += 1;
            }
        }
        self.insert(order, block);
    }

    /// Takes these units, if all of them are free: whether they were.
    pub(crate) fn take(&mut self, units: Range<usize>) -> bool {
        if !units.clone().all(|unit| self.is_free(unit)) {
            return false;
        }
        for unit in units {
            let order = (0..).zip(&self.free).find(|(order, _)| self.has(*order, unit >> order));
            if let Some((order, _)) = order {
                self.remove(order, unit >> order);
                self.keep_out(unit, order);
            }
        }
        true
    }

    /// Makes these units free, all of which are taken.
    pub(crate) fn free_range(&mut self, units: Range<usize>) {
        let Range { mut start, end } = units;
        while start < end {
            let order = start.trailing_zeros().min((end - start).ilog2()).min(self.top());
            self.free(start, order);
            start += 1 << order;
        }
    }

    /// The order of the whole span.
    fn top(&self) -> u32 {
        self.free.len() as u32 - 1
    }

    /// Whether this unit is in a free block.
    fn is_free(&self, unit: usize) -> bool {
        (0..=self.top()).any(|order| self.has(order, unit >> order))
    }

    fn has(&self, order: u32, block: usize) -> bool {
        self.free.get(order as usize).is_some_and(|free| free.blocks.contains(block))
    }

    fn insert(&mut self, order: u32, block: usize) {
        let free = &mut self.free[order as usize];
        free.blocks.insert(block);
        free.count += 1;
        self.ready |= 1 << order;
    }

    fn remove(&mut self, order: u32, block: usize) {
        let free = &mut self.free[order as usize];
        free.blocks.remove(block);
        free.count -= 1;
        if free.count == 0 {
            self.ready &= !(1 << order);
        }
    }

    /// Frees all of a block but its first part of order `to`.
    fn split(&mut self, unit: usize, from: u32, to: u32) {
        for order in (to..from).rev() {
            self.insert(order, (unit >> order) + 1);
        }
    }

    /// Frees all of the block of this order around `unit` but that unit.
    fn keep_out(&mut self, unit: usize, order: u32) {
        for order in (0..order).rev() {
            self.insert(order, (unit >> order) ^ 1);
        }
    }

    /// Makes larger blocks of all that were left apart.
    fn join(&mut self) {
        for order in 0..self.top() {
            let (below, above) = self.free.split_at_mut(order as usize + 1);
            let (Some(free), Some(larger)) = (below.last_mut(), above.first_mut()) else { break };
            free.blocks.take_pairs(|block| {
                free.count -= 2;
                larger.blocks.insert(block / 2);
                larger.count += 1;
            });
        }
        self.ready = 0;
        for (order, free) in self.free.iter().enumerate() {
            self.ready |= u32::from(free.count > 0) << order;
        }
        self.is_loose = false;
    }
}

#[cfg(test)]
mod tests;
