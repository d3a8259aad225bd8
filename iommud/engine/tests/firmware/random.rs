//! Where hostile tables come from.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use crate::corpus::seal;

/// Numbers that look random and follow from the first (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of the input with this number.
    pub(crate) fn of_input(number: u64) -> Self {
        let mut random = Self(number);
        // Neighbours would run in step otherwise.
        random.0 ^= random.next().rotate_left(32);
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of these.
    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Often a small byte or the largest, so that kinds and lengths are often right.
    pub(crate) fn likely_byte(&mut self) -> u8 {
        match self.below(8) {
            0..4 => self.below(40) as u8,
            4 => 0xff,
            5 => self.one_of(&[0x10, 0x11, 0x20, 0x21, 0x22, 0x40, 0x42, 0x43, 0x46, 0x48, 0xf0]),
            _ => self.byte(),
        }
    }

    pub(crate) fn word(&mut self) -> u16 {
        match self.below(4) {
            0 => self.below(16) as u16,
            1 => self.one_of(&[0, 1, 0xa0, 0xff, 0x100, 0x7fff, 0xfffe, 0xffff]),
            _ => self.next() as u16,
        }
    }

    /// A number of any size, the edges of pages and of address widths among them.
    pub(crate) fn long(&mut self) -> u64 {
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
}

/// Makes a whole table with this signature of some bytes. Now and then its header lies.
pub(crate) fn table(random: &mut Random, signature: [u8; 4], after_header: &[u8]) -> Vec<u8> {
    let mut table = vec![0; 36];
    table[..4].copy_from_slice(&signature);
    table.extend(after_header);
    seal(&mut table);
    match random.below(64) {
        0 => table[4] = random.byte(),
        1 => {
            table.truncate(random.below(table.len()));
        }
        2 => table.extend([0xff; 9]),
        _ => {}
    }
    table
}

/// What follows the header: bytes without any order.
pub(crate) fn bytes(random: &mut Random) -> Vec<u8> {
    let length = random.below(300);
    (0..length).map(|_| random.likely_byte()).collect()
}

/// What follows the header of one of these tables, with some of it changed.
pub(crate) fn mutated(random: &mut Random, tables: &[Vec<u8>]) -> Vec<u8> {
    let mut rest = match tables {
        [] => vec![0; 64],
        tables => tables[random.below(tables.len())][36..].to_vec(),
    };
    for _ in 0..1 + random.below(6) {
        let length = rest.len().max(1);
        let (at, other) = (random.below(length), random.below(length));
        match random.below(8) {
            0 => rest.truncate(at),
            1 => {
                let (from, to) = (at.min(other), at.max(other));
                let piece = rest.get(from..to).unwrap_or_default().to_vec();
                let to = random.below(length);
                rest.splice(to..to, piece.into_iter().take(512));
            }
            2 => {
                rest.drain(at.min(other)..at.max(other).min(rest.len()));
            }
            3 => {
                if let Some(byte) = rest.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            4 => {
                let long = random.long().to_le_bytes();
                for (byte, new) in rest.iter_mut().skip(at).zip(long) {
                    *byte = new;
                }
            }
            _ => {
                if let Some(byte) = rest.get_mut(at) {
                    *byte = random.likely_byte();
                }
            }
        }
    }
    rest
}

/// Tries as many inputs as are asked for. `check` makes one and says whether the parser took it.
pub(crate) fn try_inputs(name: &str, check: impl Fn(&mut Random) -> bool) {
    let setting = |name, default: u64| {
        let text = env::var(name).ok();
        text.map_or(default, |text| text.replace('_', "").parse().expect("a number"))
    };
    let (first, count) = (setting("IOMMUD_FUZZ_FIRST", 0), setting("IOMMUD_FUZZ_INPUTS", 4000));
    let (start, mut taken) = (Instant::now(), 0u64);
    for number in first..first + count {
        let tried = catch_unwind(AssertUnwindSafe(|| check(&mut Random::of_input(number))));
        match tried {
            Ok(accepted) => taken += u64::from(accepted),
            Err(panic) => {
                println!("{name}: input {number} fails");
                resume_unwind(panic);
            }
        }
    }
    let elapsed = start.elapsed();
    println!("{name}: {count} inputs, {taken} of them tables that parse, in {elapsed:.1?}");
    assert!(taken > 0 || count < 1000, "{name}: no input is any good");
}
