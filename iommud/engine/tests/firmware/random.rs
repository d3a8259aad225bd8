//! Where hostile tables come from.

use fuzz::{Chance, Trial};

use crate::corpus::seal;

/// Makes a whole table with this signature of some bytes. Now and then its header lies.
pub(crate) fn table(random: &mut Chance, signature: [u8; 4], after_header: &[u8]) -> Vec<u8> {
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
pub(crate) fn bytes(random: &mut Chance) -> Vec<u8> {
    let length = random.below(300);
    (0..length).map(|_| random.likely_byte()).collect()
}

/// What follows the header of one of these tables, with some of it changed.
pub(crate) fn mutated(random: &mut Chance, tables: &[Vec<u8>]) -> Vec<u8> {
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
pub(crate) fn try_inputs(name: &'static str, check: impl Fn(&mut Chance) -> bool) {
    let trial = Trial { name, steps: 4000, each: 1 };
    trial.run(|mut steps| steps.next().is_some_and(|mut chance| check(&mut chance)));
}
