//! What was mapped by this process, as far as it was told.

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};

/// A piece of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// The buffer's number.
    pub(crate) buffer: u64,
    /// Where in it the piece starts.
    pub(crate) offset: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

/// Where something is mapped: in which explicit domain, if in one, and at which address.
pub(crate) type At = (Option<u64>, u64);

/// All mappings that iommud has answered, of buffers that this process has handles to.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    /// What is mapped where, and the how manieth mapping it is.
    pieces: BTreeMap<At, (Piece, u64)>,
    /// How many have been noted.
    noted: u64,
    of_buffers: BTreeSet<(u64, At)>,
}

impl Mappings {
    /// Notes a mapping.
    pub(crate) fn insert(&mut self, at: At, piece: Piece) {
        self.noted += 1;
        if let Some((before, _)) = self.pieces.insert(at, (piece, self.noted)) {
            self.of_buffers.remove(&(before.buffer, at));
        }
        self.of_buffers.insert((piece.buffer, at));
    }

    /// Forgets the one of this number, if it is there still.
    pub(crate) fn remove(&mut self, at: At, number: u64) {
        if let Entry::Occupied(there) = self.pieces.entry(at)
            && there.get().1 == number
        {
            let (piece, _) = there.remove();
            self.of_buffers.remove(&(piece.buffer, at));
        }
    }

    /// Forgets those of a buffer, which end with it.
    pub(crate) fn remove_buffer(&mut self, buffer: u64) {
        let next = buffer.saturating_add(1);
        let mut ended = self.of_buffers.split_off(&(buffer, (None, 0)));
        self.of_buffers.append(&mut ended.split_off(&(next, (None, 0))));
        for (_, at) in ended {
            self.pieces.remove(&at);
        }
    }

    /// Forgets those in a domain, which end with it.
    pub(crate) fn remove_domain(&mut self, domain: u64) {
        let (first, next) = ((Some(domain), 0), (Some(domain.saturating_add(1)), 0));
        let mut ended = self.pieces.split_off(&first);
        self.pieces.append(&mut ended.split_off(&next));
        for (at, (piece, _)) in ended {
            self.of_buffers.remove(&(piece.buffer, at));
        }
    }

    /// Which mapping begins there, if one was told: no two have the same number.
    pub(crate) fn number(&self, at: At) -> Option<u64> {
        self.pieces.get(&at).map(|(_, number)| *number)
    }

    /// Whether just this piece is mapped there, as was told.
    pub(crate) fn is(&self, at: At, piece: Piece) -> bool {
        self.pieces.get(&at).is_some_and(|(there, _)| *there == piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Piece = Piece { buffer: 3, offset: 0, bytes: 4096 };

    #[test]
    fn what_ends_with_a_buffer_or_a_domain_is_forgotten_and_nothing_else() {
        let mut mappings = Mappings::default();
        let other = Piece { buffer: 4, ..PIECE };
        for (at, piece) in [
            ((None, 0x1000), PIECE),
            ((Some(7), 0x1000), PIECE),
            ((Some(8), 0x1000), other),
            ((None, 0x5000), other),
        ] {
            mappings.insert(at, piece);
        }
        mappings.remove_domain(7);
        assert!(mappings.number((Some(7), 0x1000)).is_none());
        assert!(mappings.is((Some(8), 0x1000), other));
        mappings.remove_buffer(3);
        assert!(!mappings.is((None, 0x1000), PIECE) && mappings.is((None, 0x5000), other));
        mappings.remove_buffer(4);
        assert!(mappings.pieces.is_empty() && mappings.of_buffers.is_empty());
    }

    #[test]
    fn an_address_that_is_used_again_is_of_the_new_piece() {
        let mut mappings = Mappings::default();
        let (at, other) = ((None, 0x1000), Piece { buffer: 4, ..PIECE });
        mappings.insert(at, PIECE);
        let first = mappings.number(at);
        mappings.insert(at, other);
        assert_ne!(mappings.number(at), first);
        mappings.remove_buffer(3);
        assert!(mappings.is(at, other) && !mappings.is(at, PIECE));
        let now = mappings.number(at).unwrap();
        mappings.remove(at, now - 1);
        assert!(mappings.is(at, other), "another number is another mapping's");
        mappings.remove(at, now);
        assert!(mappings.pieces.is_empty() && mappings.of_buffers.is_empty());
    }
}
