//! Numbers that look like chance.

/// Numbers that look like chance and follow from the first (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// What follows from this number.
    pub fn of(number: u64) -> Self {
        let mut chance = Self(number);
        // Neighbours would run in step otherwise.
        chance.0 ^= chance.next().rotate_left(32);
        chance
    }

    /// The next number, of any size alike.
    #[expect(clippy::should_implement_trait, reason = "it has no end, and nobody collects it")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one; zero if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these, of which there must be one.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Takes one of these out, if there is any.
    pub fn take<T>(&mut self, choices: &mut Vec<T>) -> Option<T> {
        let at = self.below(choices.len());
        (at < choices.len()).then(|| choices.swap_remove(at))
    }

    /// A byte of any value alike.
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Often a small byte or the largest, so that kinds and lengths are often right.
    pub fn likely_byte(&mut self) -> u8 {
        match self.below(8) {
            0..4 => self.below(40) as u8,
            4 => 0xff,
            5 => self.one_of(&[0x10, 0x11, 0x20, 0x21, 0x22, 0x40, 0x42, 0x43, 0x46, 0x48, 0xf0]),
            _ => self.byte(),
        }
    }

    /// Often a small word, or one at an edge.
    pub fn word(&mut self) -> u16 {
        match self.below(4) {
            0 => self.below(16) as u16,
            1 => self.one_of(&[0, 1, 0xa0, 0xff, 0x100, 0x7fff, 0xfffe, 0xffff]),
            _ => self.next() as u16,
        }
    }

    /// A number of any size, the edges of pages and of address widths among them.
    pub fn long(&mut self) -> u64 {
        let edge = 1u64 << self.below(64);
        match self.below(6) {
            0 => 0,
            1 => edge,
            2 => edge.wrapping_sub(self.below(0x1002) as u64),
            3 => self.next() >> self.below(64),
            4 => self.next() << self.below(64),
            _ => (self.next() >> 28) & !0xfff,
        }
    }

    /// Changes a few of these bytes, and now and then how many there are.
    pub fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let (at, long) = (self.below(bytes.len()), self.long().to_le_bytes());
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => bytes.extend(&long),
                2 => bytes.iter_mut().skip(at).zip(long).for_each(|(byte, new)| *byte = new),
                3 => bytes
                    .iter_mut()
                    .skip(at & !3)
                    .zip(&long[..4])
                    .for_each(|(byte, new)| *byte = *new),
                4..6 => {
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = self.likely_byte())
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_gives_the_same_chance_and_its_neighbour_another() {
        let first = |number| Chance::of(number).next();
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8));
        assert_eq!(Chance::of(1).below(0), 0);
    }

    #[test]
    fn nothing_is_changed_in_no_bytes_but_their_number() {
        for number in 0..1000 {
            let mut bytes = Vec::new();
            Chance::of(number).change(&mut bytes);
            assert!(bytes.len() <= 24);
        }
    }
}
