//! Which parts of a span of memory are free.

use alloc::vec::Vec;
use core::ops::Range;

use super::bits::Bits;

/// How many free blocks of an order are kept ready, and not joined with their buddies. A driver that gives a block back
/// mostly takes one like it next, and would have it split off again.
const READY: usize = 16;

/// Which parts of a span are free, in units: a buddy allocator. A block of order n is 2^n units and lies at a multiple
/// of that.
///
/// All that it knows is in memory of its own. The span itself is a device's to write, and is never looked at.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// For each order the free blocks.
    orders: Vec<Order>,
}

/// The free blocks of an order.
#[derive(Debug)]
struct Order {
    /// Where those start that are ready: the last that was given back is the first to be given out.
    ready: [u32; READY],
    /// How many those are.
    held: usize,
    /// The others, numbered from the start of the span. No two of them are a larger one together.
    blocks: Bits,
    count: u32,
}

impl Buddy {
    /// The largest span that there can be.
    pub(crate) const LIMIT: usize = Bits::LIMIT;

    /// A span of this many units, a power of two up to [`LIMIT`](Self::LIMIT), all of which are taken.
    pub(crate) fn taken(units: usize) -> Self {
        debug_assert!(units.is_power_of_two() && units <= Self::LIMIT);
        let order = |order: u32| {
            let blocks = Bits::new(units >> order);
            Order { ready: [0; READY], held: 0, blocks, count: 0 }
        };
        Self { orders: (0..=units.ilog2()).map(order).collect() }
    }

    /// A span of this many units, all of which are free.
    pub(crate) fn new(units: usize) -> Self {
        let mut buddy = Self::taken(units);
        buddy.insert(units.ilog2(), 0);
        buddy
    }

    /// Takes a block of an order: where it starts.
    pub(crate) fn alloc(&mut self, order: u32) -> Option<usize> {
        self.alloc_ready(order).or_else(|| self.split_off(order))
    }

    /// The same if one is ready, in a few steps.
    #[inline]
    pub(super) fn alloc_ready(&mut self, order: u32) -> Option<usize> {
        let free = self.orders.get_mut(order as usize)?;
        let last = free.held.checked_sub(1)?;
        let start = *free.ready.get(last)?;
        free.held = last;
        Some(start as usize)
    }

    /// The same where none is: a part of the smallest that there is.
    fn split_off(&mut self, order: u32) -> Option<usize> {
        let found = self.smallest(order).or_else(|| {
            self.join_all();
            self.smallest(order)
        })?;
        let start = match self.alloc_ready(found) {
            Some(start) => start,
            None => {
                let block = self.orders[found as usize].blocks.first()?;
                self.remove(found, block);
                block << found
            }
        };
        self.split(start, found, order);
        Some(start)
    }

    /// The least order, this or a higher one, of which there is a free block.
    fn smallest(&self, order: u32) -> Option<u32> {
        let mut orders = (0..).zip(&self.orders).skip(order as usize);
        orders.find(|(_, free)| free.held > 0 || free.count > 0).map(|(order, _)| order)
    }

    /// Gives back a block that [`alloc`](Self::alloc) took.
    pub(crate) fn free(&mut self, unit: usize, order: u32) {
        if !self.free_ready(unit, order) {
            self.join(unit, order);
        }
    }

    /// The same if it is to be kept ready, in a few steps; whether it is.
    #[inline]
    pub(super) fn free_ready(&mut self, unit: usize, order: u32) -> bool {
        debug_assert!(!self.is_free(unit), "a block is given back once");
        let Some(free) = self.orders.get_mut(order as usize) else { return false };
        let Some(place) = free.ready.get_mut(free.held) else { return false };
        *place = unit as u32;
        free.held += 1;
        true
    }

    /// How many units are free.
    pub(super) fn free_units(&self) -> usize {
        let free = |(order, free): (u32, &Order)| (free.held + free.count as usize) << order;
        (0..).zip(&self.orders).map(free).sum()
    }

    /// Gives back a block that is not to be kept ready, together with its buddy if that is free.
    fn join(&mut self, unit: usize, order: u32) {
        let mut order = order;
        let mut block = unit >> order;
        while self.has(order, block ^ 1) {
            self.remove(order, block ^ 1);
            block >>= 1;
            order += 1;
        }
        self.insert(order, block);
    }

    /// Makes larger blocks of all that were kept ready, as far as can be.
    fn join_all(&mut self) {
        for order in 0..=self.top() {
            let free = &mut self.orders[order as usize];
            let (ready, held) = (free.ready, free.held);
            free.held = 0;
            for unit in ready.into_iter().take(held) {
                self.join(unit as usize, order);
            }
        }
    }

    /// Takes these units, if all of them are free: whether they were.
    pub(crate) fn take(&mut self, units: Range<usize>) -> bool {
        self.join_all();
        if !units.clone().all(|unit| self.is_free(unit)) {
            return false;
        }
        for unit in units {
            let order = (0..).zip(&self.orders).find(|(order, _)| self.has(*order, unit >> order));
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
            self.join(start, order);
            start += 1 << order;
        }
    }

    /// The order of the whole span.
    fn top(&self) -> u32 {
        self.orders.len() as u32 - 1
    }

    /// Whether this unit is in a free block.
    fn is_free(&self, unit: usize) -> bool {
        let is_ready = |(order, free): (u32, &Order)| {
            free.ready.iter().take(free.held).any(|it| *it as usize >> order == unit >> order)
        };
        (0..=self.top()).any(|order| self.has(order, unit >> order))
            || (0..).zip(&self.orders).any(is_ready)
    }

    fn has(&self, order: u32, block: usize) -> bool {
        self.orders.get(order as usize).is_some_and(|free| free.blocks.contains(block))
    }

    fn insert(&mut self, order: u32, block: usize) {
        let free = &mut self.orders[order as usize];
        free.blocks.insert(block);
        free.count += 1;
    }

    fn remove(&mut self, order: u32, block: usize) {
        let free = &mut self.orders[order as usize];
        free.blocks.remove(block);
        free.count -= 1;
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
}

#[cfg(test)]
mod tests;
