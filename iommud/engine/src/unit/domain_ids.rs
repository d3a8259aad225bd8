//! The numbers by which a unit tags what it caches, and which of them are in use.

use alloc::vec::Vec;

/// The number by which a unit tags what it caches of a domain. Each unit has its own, and as many as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(u16);

impl DomainId {
    /// The domain id with this value. 0 is never a domain's; see [`DomainIds`].
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The domain id as the field that holds it.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The domain ids of one unit.
///
/// Id 0 is never given out: on VT-d in caching mode it belongs to the hardware (VT-d 6.1), on AMD-Vi it is that
/// of devices that reach nothing, and one rule for all units costs the others one id of at least 16.
#[derive(Debug)]
pub struct DomainIds {
    /// A bit for each id: set if it is in use.
    used: Vec<u64>,
    /// No word before this one has a clear bit.
    first: usize,
    count: u32,
    in_use: u32,
}

impl DomainIds {
    /// All `count` ids, which is a power of two of at least 16.
    pub fn new(count: u32) -> Self {
        let words = (count as usize).div_ceil(64).max(1);
        let mut used = alloc::vec![0; words];
        used[0] = 1;
        if count < 64 {
            used[0] |= u64::MAX << count;
        }
        Self { used, first: 0, count, in_use: 0 }
    }

    /// The lowest id that is not in use, or `None` if all are.
    pub fn take(&mut self) -> Option<DomainId> {
        let free = self.used[self.first..].iter().position(|word| *word != u64::MAX);
        self.first = free.map_or(self.used.len(), |skipped| self.first + skipped);
        let word = self.used.get_mut(self.first)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.in_use += 1;
        Some(DomainId::new((self.first * 64) as u16 + bit as u16))
    }

    /// Takes this id, as a predecessor had it. `false` if there is none such, or it is in use.
    pub fn take_again(&mut self, id: DomainId) -> bool {
        let (index, bit) = (usize::from(id.get()) / 64, 1 << (id.get() % 64));
        let known = id.get() != 0 && u32::from(id.get()) < self.count;
        let Some(word) = self.used.get_mut(index).filter(|word| known && **word & bit == 0) else {
            return false;
        };
        *word |= bit;
        self.in_use += 1;
        true
    }

    /// Takes an id back. No unit may have anything cached under it any more (rule R2).
    pub fn give_back(&mut self, id: DomainId) {
        let (index, bit) = (usize::from(id.get()) / 64, 1 << (id.get() % 64));
        if id.get() == 0 || u32::from(id.get()) >= self.count {
            return;
        }
        if let Some(word) = self.used.get_mut(index).filter(|word| **word & bit != 0) {
            *word &= !bit;
            self.first = self.first.min(index);
            self.in_use -= 1;
        }
    }

    /// How many can be given out still.
    pub fn left(&self) -> u32 {
        (self.count - 1).saturating_sub(self.in_use)
    }

    /// How many are in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_given_out_once_and_never_zero() {
        for count in [16, 64, 256, 65536] {
            let mut ids = DomainIds::new(count);
            let given: Vec<_> = core::iter::from_fn(|| ids.take()).map(DomainId::get).collect();
            assert_eq!(given, (1..=(count - 1) as u16).collect::<Vec<_>>());
            assert_eq!((ids.in_use(), ids.left()), (count - 1, 0));
            for id in given {
                ids.give_back(DomainId::new(id));
            }
            assert_eq!((ids.in_use(), ids.take()), (0, Some(DomainId::new(1))));
        }
    }

    #[test]
    fn an_id_that_was_in_use_before_is_taken_once() {
        let mut ids = DomainIds::new(16);
        assert!(ids.take_again(DomainId::new(2)) && !ids.take_again(DomainId::new(2)));
        assert!([0, 16, 65535].into_iter().all(|id| !ids.take_again(DomainId::new(id))));
        let given = [ids.take(), ids.take()].map(|id| id.map(DomainId::get));
        assert_eq!((given, ids.in_use()), ([Some(1), Some(3)], 3));
    }

    #[test]
    fn giving_back_what_is_not_in_use_changes_nothing() {
        let mut ids = DomainIds::new(16);
        for id in [0, 5, 15, 16, 65535] {
            ids.give_back(DomainId::new(id));
        }
        assert_eq!((ids.in_use(), ids.take()), (0, Some(DomainId::new(1))));
    }
}
