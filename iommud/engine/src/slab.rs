//! Numbered slots: what trees are made of, since without `unsafe` they link by number.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// How many slots a chunk has: a word tells which are vacant.
const SLOTS: usize = u64::BITS as usize;

/// Slots that hold a `T` each, reused after removal. They come and go in chunks: a chunk in which nothing is in use any more
/// gives its memory back, but for one, which what comes and goes would need again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Option<Box<[T; SLOTS]>>>,
    /// Bit n of a chunk's word: slot n is vacant.
    vacant: Vec<u64>,
    /// The chunks that have a vacant slot, those without memory included.
    roomy: Vec<u32>,
    /// The chunk that became empty last and was kept. It may be in use again.
    kept: u32,
}

/// In which chunk a slot is, and where.
#[inline]
const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / SLOTS, slot as usize % SLOTS)
}

impl<T: Copy> Slab<T> {
    /// A slab with no slots.
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), vacant: Vec::new(), roomy: Vec::new(), kept: 0 }
    }

    /// Stores `value` and gives its number.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let number = match self.roomy.last() {
            Some(number) => *number,
            None => self.add_chunk(),
        };
        let vacant = &mut self.vacant[number as usize];
        let slot = vacant.trailing_zeros();
        *vacant &= *vacant - 1;
        if *vacant == 0 {
            self.roomy.pop();
        }
        let chunk = &mut self.chunks[number as usize];
        chunk.get_or_insert_with(|| Box::new([value; SLOTS]))[slot as usize] = value;
        number * u64::BITS + slot
    }

    /// Adds a chunk that has no memory yet.
    fn add_chunk(&mut self) -> u32 {
        // A slot takes 8 bytes and more: memory ends before the numbers do.
        let number = self.chunks.len() as u32;
        self.chunks.push(None);
        self.vacant.push(u64::MAX);
        self.roomy.push(number);
        number
    }

    /// Takes the value out of a slot that is in use.
    pub(crate) fn remove(&mut self, slot: u32) -> T {
        let value = self[slot];
        let (number, place) = place(slot);
        let vacant = &mut self.vacant[number];
        if *vacant == 0 {
            self.roomy.push(number as u32);
        }
        *vacant |= 1 << place;
        if *vacant == u64::MAX && self.kept != number as u32 {
            let before = core::mem::replace(&mut self.kept, number as u32) as usize;
            if self.vacant[before] == u64::MAX {
                self.chunks[before] = None;
            }
        }
        value
    }

    /// How many slots there is memory for.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.chunks.iter().flatten().count() * SLOTS
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, slot: u32) -> &T {
        let (chunk, place) = place(slot);
        &self.chunks[chunk].as_deref().map_or(&[][..], |chunk| chunk)[place]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        let (chunk, place) = place(slot);
        &mut self.chunks[chunk].as_deref_mut().map_or(&mut [][..], |chunk| chunk)[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_in_use_keeps_its_number_and_its_value(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0..2u8), 1..600),
        ) {
            let (mut slab, mut model) = (Slab::new(), BTreeMap::new());
            for (value, (index, step)) in steps.into_iter().enumerate() {
                if step == 0 || model.is_empty() {
                    prop_assert_eq!(model.insert(slab.insert(value), value), None);
                } else {
                    let (slot, value) = model.iter().nth(index.index(model.len())).unwrap();
                    let (slot, value) = (*slot, *value);
                    prop_assert_eq!(slab.remove(slot), value);
                    model.remove(&slot);
                }
                prop_assert!(model.iter().all(|(slot, value)| slab[*slot] == *value));
            }
        }
    }

    #[test]
    fn slots_are_reused_and_empty_chunks_but_one_give_their_memory_back() {
        let mut slab = Slab::new();
        let first = slab.insert(1u64);
        assert_eq!(slab.remove(first), 1);
        assert_eq!((slab.insert(2), slab.room()), (first, 64), "a slab of one keeps its memory");
        let others: Vec<u32> = (0..1000).map(|value| slab.insert(value)).collect();
        assert_eq!((slab[others[7]], slab.room()), (7, 1024));
        // Not in order.
        for part in 0..7 {
            for slot in others.iter().skip(part).step_by(7) {
                slab.remove(*slot);
            }
        }
        assert_eq!(slab.remove(first), 2);
        assert_eq!(slab.room(), 64);
        let again = (0..1000).map(|value| slab.insert(value)).max();
        assert_eq!((again, slab.room()), (Some(999), 1024), "no number is lost");
    }
}
