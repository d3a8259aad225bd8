//! Things by numbers that go up and are never used again.
//!
//! Requests name few things, most often of the latest: where such a one is, its number's low bits tell, in a few steps. Of
//! two whose numbers end alike only the later is found so. The other is found in the tree that has all of them in order, as
//! everything is where a client chooses what it keeps so that many end alike.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem;
use core::ops::Index;

use iommu_engine::platform::RunId;

use crate::handles::handle::HandleId;
use crate::sessions::session::{BufferId, SessionId};

/// A number.
pub trait Number: Copy + Ord {
    /// It, as it is.
    fn number(self) -> u64;
}

macro_rules! number {
    ($($name:ident),*) => { $(
        impl Number for $name {
            #[inline]
            fn number(self) -> u64 {
                self.0
            }
        }
    )* };
}

number!(BufferId, HandleId, RunId, SessionId);

/// The fewest places in which it is told where something is.
const FEWEST: usize = 64;

/// Things by their numbers.
#[derive(Debug)]
pub struct Numbered<K, V> {
    slots: Vec<Option<(K, V)>>,
    free: Vec<u32>,
    /// In which slot the latest is whose number ends so.
    near: Vec<u32>,
    order: BTreeMap<K, u32>,
}

impl<K, V> Default for Numbered<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), near: Vec::new(), order: BTreeMap::new() }
    }
}

impl<K: Number, V> Numbered<K, V> {
    /// The place for what has a number that ends so. There is none as long as there is nothing.
    #[inline]
    fn place(&self, key: K) -> usize {
        key.number() as usize & self.near.len().wrapping_sub(1)
    }

    /// What has this number.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|(_, value)| value)
    }

    /// The same, and in which slot it is for as long as it is there.
    #[inline]
    pub(crate) fn find(&self, key: &K) -> Option<(u32, &V)> {
        if let Some(&slot) = self.near.get(self.place(*key))
            && let Some(Some((other, value))) = self.slots.get(slot as usize)
            && other == key
        {
            return Some((slot, value));
        }
        self.search(key)
    }

    #[inline(never)]
    fn search(&self, key: &K) -> Option<(u32, &V)> {
        let slot = *self.order.get(key)?;
        Some((slot, &self.slots[slot as usize].as_ref()?.1))
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (slot, _) = self.find(key)?;
        self.in_slot_mut(slot)
    }

    /// What is in a slot, to be changed.
    #[inline]
    pub(crate) fn in_slot_mut(&mut self, slot: u32) -> Option<&mut V> {
        let (_, value) = self.slots.get_mut(slot as usize)?.as_mut()?;
        Some(value)
    }

    /// Whether something has this number.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts something in, and takes out what had its number.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(held) = self.get_mut(&key) {
            return Some(mem::replace(held, value));
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some((key, value));
        self.order.insert(key, slot);
        if self.order.len() > self.near.len() / 2 {
            self.near = alloc::vec![0; (self.near.len() * 2).max(FEWEST)];
            for (key, slot) in &self.order {
                let place = key.number() as usize & (self.near.len() - 1);
                self.near[place] = *slot;
            }
        }
        let place = self.place(key);
        self.near[place] = slot;
        None
    }

    /// What has this number, which is put in if nothing has it.
    pub fn get_or_insert_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(&key) {
            self.insert(key, V::default());
        }
        self.get_mut(&key).expect("it was there, or has just been put in")
    }

    /// Takes out what has this number.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.order.remove(key)?;
        let (_, value) = self.slots[slot as usize].take()?;
        self.free.push(slot);
        if self.order.is_empty() && self.slots.len() > FEWEST {
            // What many took is not kept for few.
            *self = Self::default();
        }
        Some(value)
    }

    /// All, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        let values = self.order.iter();
        values.filter_map(|(key, slot)| Some((key, &self.slots[*slot as usize].as_ref()?.1)))
    }

    /// All, to be changed, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.slots.iter_mut().flatten().map(|(key, value)| (&*key, value))
    }

    /// All without their numbers, in the order of those.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The same, of what nobody looks anything up in any more.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        let Self { mut slots, order, .. } = self;
        let mut values = order.into_values();
        core::iter::from_fn(move || {
            let (_, value) = slots[values.next()? as usize].take()?;
            Some(value)
        })
    }

    /// All without their numbers, to be changed, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl<K: Number, V> Index<&K> for Numbered<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("there is none of this number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_what_a_tree_of_all_has() {
        let mut numbered: Numbered<BufferId, u64> = Numbered::default();
        let mut all = BTreeMap::new();
        assert_eq!(numbered.get(&BufferId(0)), None);
        for round in 0u64..2000 {
            // Some end alike, some are the same again, and many are taken out.
            let key = BufferId(
                round.wrapping_mul(0x9e37_79b9) % 512 * if round % 3 == 0 { 64 } else { 1 },
            );
            assert_eq!(numbered.insert(key, round), all.insert(key, round));
            if let Some(held) = numbered.get_mut(&key) {
                *held += 1;
            }
            all.entry(key).and_modify(|held| *held += 1);
            let gone = BufferId(round * 7 % 600);
            assert_eq!(numbered.remove(&gone), all.remove(&gone));
            for number in [round % 512, round * 64 % (512 * 64), u64::MAX] {
                let key = BufferId(number);
                assert_eq!(numbered.get(&key), all.get(&key), "{key:?}");
                assert_eq!(numbered.contains_key(&key), all.contains_key(&key));
            }
        }
        assert!(numbered.iter().eq(all.iter()) && numbered.len() == all.len() && all.len() > 64);
        let mut changed: Vec<_> = numbered.iter_mut().map(|(key, value)| (*key, *value)).collect();
        changed.sort_unstable();
        assert!(changed.into_iter().eq(all.clone()));
        let mut gone = mem::take(&mut numbered);
        for key in all.keys().step_by(2) {
            numbered.insert(*key, gone.remove(key).unwrap());
        }
        let is_odd = |(index, _): &(usize, _)| index % 2 == 1;
        let odd = all.values().enumerate().filter(is_odd).map(|(_, value)| *value);
        assert!(gone.into_values().eq(odd));
        for key in all.keys().step_by(2) {
            assert!(numbered.remove(key).is_some());
        }
        assert!(numbered.is_empty() && numbered.slots.capacity() == 0);
    }

    #[test]
    fn those_that_end_alike_are_all_found() {
        let mut numbered: Numbered<BufferId, u64> = Numbered::default();
        let alike = || (0..1000u64).map(|number| number << 20);
        for number in alike() {
            assert_eq!(numbered.insert(BufferId(number), number), None);
        }
        assert!(alike().all(|number| numbered.get(&BufferId(number)) == Some(&number)));
        assert_eq!(*numbered.get_or_insert_default(BufferId(5)), 0);
        assert_eq!(*numbered.get_or_insert_default(BufferId(1 << 20)), 1 << 20);
    }
}
