//! Sets of small numbers.

use alloc::boxed::Box;
use alloc::vec;

/// How many numbers one word stands for.
const WORD: usize = u64::BITS as usize;

/// A set of numbers below 262144, whose lowest is found in three steps: a bit for each number, a bit for each word of
/// those that is not empty, and one word of bits for those.
#[derive(Debug)]
pub(super) struct Bits {
    words: Box<[u64]>,
    groups: Box<[u64]>,
    top: u64,
}

impl Bits {
    /// One more than the largest number that there can be.
    pub(super) const LIMIT: usize = WORD * WORD * WORD;

    /// None of the numbers below `count`, which is at most [`LIMIT`](Self::LIMIT).
    pub(super) fn new(count: usize) -> Self {
        debug_assert!(count <= Self::LIMIT);
        let words = count.div_ceil(WORD);
        let groups = words.div_ceil(WORD);
        Self { words: vec![0; words].into(), groups: vec![0; groups].into(), top: 0 }
    }

    pub(super) fn insert(&mut self, number: usize) {
        let (word, group) = (number / WORD, number / (WORD * WORD));
        self.words[word] |= bit(number);
        self.groups[group] |= bit(word);
        self.top |= bit(group);
    }

    pub(super) fn remove(&mut self, number: usize) {
        let (word, group) = (number / WORD, number / (WORD * WORD));
        self.words[word] &= !bit(number);
        if self.words[word] == 0 {
            self.groups[group] &= !bit(word);
            if self.groups[group] == 0 {
                self.top &= !bit(group);
            }
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.words.get(number / WORD).is_some_and(|word| word & bit(number) != 0)
    }

    /// The lowest.
    pub(super) fn first(&self) -> Option<usize> {
        if self.top == 0 {
            return None;
        }
        let group = self.top.trailing_zeros() as usize;
        let word = group * WORD + self.groups[group].trailing_zeros() as usize;
        Some(word * WORD + self.words[word].trailing_zeros() as usize)
    }
}

/// The bit that stands for a number in its word.
const fn bit(number: usize) -> u64 {
    1 << (number % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_found_wherever_it_is() {
        let mut bits = Bits::new(Bits::LIMIT);
        assert_eq!(bits.first(), None);
        for number in [Bits::LIMIT - 1, 70_000, 4096, 4095, 64, 63, 0] {
            assert!(!bits.contains(number));
            bits.insert(number);
            assert!(bits.contains(number));
            assert_eq!(bits.first(), Some(number));
        }
        for number in [0, 63, 64, 4095, 4096, 70_000, Bits::LIMIT - 1] {
            assert_eq!(bits.first(), Some(number));
            bits.remove(number);
        }
        assert_eq!(bits.first(), None);
    }
}
