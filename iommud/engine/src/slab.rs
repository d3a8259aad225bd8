//! Numbered slots: what trees are made of, since without `unsafe` they link by number.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// Slots that hold a `T` each, reused after removal. Once the last is removed, a large slab gives its
/// memory back.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<T>,
    vacant: Vec<u32>,
}

/// An empty slab larger than this gives its memory back; a smaller one is kept for the next round.
const KEPT_SLOTS: usize = 64;

impl<T: Copy> Slab<T> {
    /// A slab with no slots.
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new() }
    }

    /// Stores `value` and gives its number.
    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.vacant.pop() {
            self[slot] = value;
            return slot;
        }
        // A slot takes 32 bytes and more: memory ends long before the numbers do.
        let slot = self.slots.len() as u32;
        self.slots.push(value);
        slot
    }

    /// Takes the value out of a slot that is in use.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) -> T {
        let value = self[slot];
        self.vacant.push(slot);
        if self.vacant.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            *self = Self::new();
        }
        value
    }

    /// How many slots are in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        &self.slots[slot as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.slots[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_an_emptied_slab_gives_its_memory_back() {
        let mut slab = Slab::new();
        let first = slab.insert(1u64);
        assert_eq!(slab.remove(first), 1);
        assert_eq!(slab.insert(2), first);
        let others: Vec<u32> = (0..100).map(|value| slab.insert(value)).collect();
        assert_eq!(slab[others[7]], 7);
        for slot in others {
            slab.remove(slot);
        }
        assert_eq!(slab.remove(first), 2);
        assert_eq!(slab.slots.capacity(), 0);
    }
}
