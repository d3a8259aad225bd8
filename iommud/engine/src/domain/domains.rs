//! All domains, by number.
//!
//! Requests name few of them at a time, and those again and again: where such a one is, the low bits of its number tell, in a
//! few steps.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Domain, DomainKey};

/// In so many places is noted where something was found, by the low bits of its number.
const PLACES: usize = 64;

/// Domains by number.
#[derive(Debug)]
pub struct Domains {
    /// In order.
    all: Vec<(DomainKey, Box<Domain>)>,
    /// Where a domain whose number ends so was found last. It may be elsewhere by now, or gone.
    near: [u32; PLACES],
}

impl Default for Domains {
    fn default() -> Self {
        Self { all: Vec::new(), near: [0; PLACES] }
    }
}

impl Domains {
    /// Where a domain was found last, if it is there.
    #[inline]
    fn near(&self, key: DomainKey) -> Option<usize> {
        let near = self.near[key.0 as usize % PLACES] as usize;
        self.all.get(near).filter(|(other, _)| *other == key).map(|_| near)
    }

    #[inline(never)]
    fn search(&self, key: DomainKey) -> Option<usize> {
        self.all.binary_search_by_key(&key, |(key, _)| *key).ok()
    }

    /// A domain.
    #[inline]
    pub fn get(&self, key: &DomainKey) -> Option<&Domain> {
        let place = self.near(*key).or_else(|| self.search(*key))?;
        Some(&self.all[place].1)
    }

    /// A domain to be changed, if it is where it was found last.
    #[inline]
    pub fn at_hand(&mut self, key: DomainKey) -> Option<&mut Domain> {
        let near = self.near(key)?;
        Some(&mut self.all[near].1)
    }

    /// A domain to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: &DomainKey) -> Option<&mut Domain> {
        match self.near(*key) {
            Some(near) => Some(&mut self.all[near].1),
            None => self.search_mut(*key),
        }
    }

    #[inline(never)]
    fn search_mut(&mut self, key: DomainKey) -> Option<&mut Domain> {
        let place = self.search(key)?;
        self.near[key.0 as usize % PLACES] = place as u32;
        Some(&mut self.all[place].1)
    }

    /// Whether there is such a domain.
    pub fn contains_key(&self, key: &DomainKey) -> bool {
        self.get(key).is_some()
    }

    /// Adds a domain, whose number was no other's.
    pub fn insert(&mut self, key: DomainKey, domain: Domain) {
        let place = self.all.partition_point(|(other, _)| *other < key);
        self.all.insert(place, (key, Box::new(domain)));
    }

    /// Takes a domain out.
    pub fn remove(&mut self, key: &DomainKey) -> Option<Domain> {
        let place = self.search(*key)?;
        Some(*self.all.remove(place).1)
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (DomainKey, &Domain)> {
        self.all.iter().map(|(key, domain)| (*key, &**domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeFrames;
    use crate::unit::Abilities;

    fn domain() -> Domain {
        Domain::new(&mut FakeFrames::new(1), &[], Abilities::NONE, None, []).unwrap()
    }

    #[test]
    fn each_is_found_by_its_number_whatever_came_and_went_before() {
        let mut domains = Domains::default();
        let mut known = Vec::new();
        for round in 0..400u64 {
            // Some end alike, and some are older than those that are there.
            let key = DomainKey(if round % 3 == 0 { 100_000 + round * 64 } else { round });
            let mut made = domain();
            made.set_client(crate::payer::Payer(key.0));
            domains.insert(key, made);
            known.push(key);
            if round % 5 == 4 {
                let gone = known.remove(round as usize * 7 % known.len());
                let removed = domains.remove(&gone).map(|it| it.client().0);
                assert_eq!(removed, Some(gone.0));
                assert!(domains.get(&gone).is_none() && domains.get_mut(&gone).is_none());
            }
            for key in &known {
                let found = domains.get(key).map(|it| it.client().0);
                assert_eq!((found, domains.contains_key(key)), (Some(key.0), true));
                assert_eq!(domains.get_mut(key).map(|it| it.client().0), Some(key.0));
            }
        }
        known.sort_unstable();
        assert!(domains.iter().map(|(key, _)| key).eq(known));
    }
}
