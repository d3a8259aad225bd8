//! What was mapped by this process, as far as it was told.

use alloc::vec::Vec;
use core::mem;

use dma_types::PAGE_SIZE;

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

/// How many notes there are at least, once anything was noted.
const FEWEST: usize = 16;

/// All mappings that iommud has answered, of buffers that this process has handles to. One is noted, found and forgotten in a
/// fixed number of steps, whatever their number, and without the heap but to have room for twice as many.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    /// As many chains as notes, a power of two; or none at all.
    notes: Vec<Note>,
    /// The first of the notes that are free.
    free: Link,
    /// How many of the others are of explicit domains.
    in_domains: usize,
    /// How many have been noted.
    noted: u64,
}

/// A note, by one more than its index; or none, by zero or what is beyond them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(0);

    fn to(index: usize) -> Self {
        Self((index as u32).wrapping_add(1))
    }

    /// The index. Of none it is one that no note has.
    fn index(self) -> usize {
        self.0.wrapping_sub(1) as usize
    }
}

/// A place as it is compared: one more than the domain's number, or zero, and the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(u64, u64);

impl Key {
    const IN_NO_DOMAIN: u64 = 0;

    fn of((domain, iova): At) -> Self {
        Self(domain.map_or(Self::IN_NO_DOMAIN, |number| number.wrapping_add(1)), iova)
    }

    fn hash(self) -> u64 {
        (self.1 / PAGE_SIZE) ^ (self.0 << u32::BITS)
    }
}

/// A mapping; and where chains begin, which are other mappings'.
#[derive(Debug)]
struct Note {
    key: Key,
    piece: Piece,
    /// The how manieth mapping it is: no two have the same.
    number: u64,
    /// The next in its place's chain, or of those that are free.
    next: Link,
    /// Its neighbours in its buffer's chain.
    before: Link,
    after: Link,
    /// Where the chain begins of those places that have this note's index for a hash.
    of_places: Link,
    /// The same of buffers.
    of_buffers: Link,
}

/// Which of so many chains it belongs to what is named by this number (Knuth, volume 3, 6.4: multiplicative hashing).
fn chain(number: u64, chains: usize) -> usize {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = number.wrapping_mul(GOLDEN_RATIO) >> u32::BITS;
    hash as usize & chains.wrapping_sub(1)
}

impl Mappings {
    /// Notes a mapping.
    pub(crate) fn insert(&mut self, at: At, piece: Piece) {
        let (key, number) = (Key::of(at), self.next_number());
        self.forget(key, |note| note.key == key);
        if self.free.index() >= self.notes.len() {
            self.grow();
        }
        self.enter(key, piece, number);
    }

    /// The number of a mapping that is noted now, here or elsewhere. It is not zero.
    #[inline]
    pub(super) fn next_number(&mut self) -> u64 {
        self.noted += 1;
        self.noted
    }

    /// Forgets the one that begins there, if it was noted when so many had been. What was noted since is another.
    pub(crate) fn remove(&mut self, at: At, noted: u64) {
        let key = Key::of(at);
        self.forget(key, |note| note.key == key && note.number <= noted);
    }

    /// Forgets those of a buffer, which end with it.
    pub(crate) fn remove_buffer(&mut self, buffer: u64) {
        let first = self.notes.get(chain(buffer, self.notes.len()));
        let mut next = first.map_or(Link::NONE, |note| note.of_buffers);
        while let Some(note) = self.notes.get(next.index()) {
            let (key, is_its) = (note.key, note.piece.buffer == buffer);
            next = note.after;
            if is_its {
                self.forget(key, |note| note.key == key);
            }
        }
    }

    /// Forgets those in a domain, which end with it.
    pub(crate) fn remove_domain(&mut self, domain: u64) {
        if self.in_domains == 0 {
            return;
        }
        let Key(domain, _) = Key::of((Some(domain), 0));
        for index in 0..self.notes.len() {
            let key = self.notes[index].key;
            if key.0 == domain {
                // A note that is free is in no chain, but may have the key of one that is.
                self.forget(key, |note| note.key == key);
            }
        }
    }

    /// How many have been noted.
    pub(crate) fn noted(&self) -> u64 {
        self.noted
    }

    /// The how manieth mapping it is that begins there, if one was told.
    pub(crate) fn number(&self, at: At) -> Option<u64> {
        self.find(Key::of(at)).map(|index| self.notes[index].number)
    }

    /// Whether just this piece is mapped there, as was told.
    pub(crate) fn is(&self, at: At, piece: Piece) -> bool {
        self.find(Key::of(at)).is_some_and(|index| self.notes[index].piece == piece)
    }

    /// The note of what begins there.
    #[inline]
    fn find(&self, key: Key) -> Option<usize> {
        let first = self.notes.get(chain(key.hash(), self.notes.len()))?;
        let mut next = first.of_places;
        while let Some(note) = self.notes.get(next.index()) {
            if note.key == key {
                return Some(next.index());
            }
            next = note.next;
        }
        None
    }

    /// Puts it in a free note, which there is, at the start of its chains.
    #[inline]
    fn enter(&mut self, key: Key, piece: Piece, number: u64) {
        let (notes, link) = (&mut *self.notes, self.free);
        let (of_place, of_buffer) =
            (chain(key.hash(), notes.len()), chain(piece.buffer, notes.len()));
        let Some(free) = notes.get(link.index()) else { return };
        self.free = free.next;
        let next = mem::replace(&mut notes[of_place].of_places, link);
        let after = mem::replace(&mut notes[of_buffer].of_buffers, link);
        if let Some(after) = notes.get_mut(after.index()) {
            after.before = link;
        }
        let note = &mut notes[link.index()];
        (note.key, note.piece, note.number) = (key, piece, number);
        (note.next, note.before, note.after) = (next, Link::NONE, after);
        self.in_domains += usize::from(key.0 != Key::IN_NO_DOMAIN);
    }

    /// Takes a note out of its chains, if there is such a one of this place.
    #[inline]
    fn forget(&mut self, key: Key, is_it: impl Fn(&Note) -> bool) {
        let notes = &mut *self.notes;
        let of_place = chain(key.hash(), notes.len());
        let Some(mut link) = notes.get(of_place).map(|note| note.of_places) else { return };
        let mut previous = None;
        let (next, before, after, buffer) = loop {
            let Some(note) = notes.get(link.index()) else { return };
            if is_it(note) {
                break (note.next, note.before, note.after, note.piece.buffer);
            }
            previous = Some(link.index());
            link = note.next;
        };
        match previous {
            Some(previous) => notes[previous].next = next,
            None => notes[of_place].of_places = next,
        }
        match notes.get_mut(before.index()) {
            Some(before) => before.after = after,
            None => notes[chain(buffer, notes.len())].of_buffers = after,
        }
        if let Some(after) = notes.get_mut(after.index()) {
            after.before = before;
        }
        notes[link.index()].next = mem::replace(&mut self.free, link);
        self.in_domains -= usize::from(key.0 != Key::IN_NO_DOMAIN);
    }

    /// Makes room for as many again. No note is free.
    #[cold]
    fn grow(&mut self) {
        let full = mem::take(&mut self.notes);
        let free = |index| Note {
            key: Key(Key::IN_NO_DOMAIN, 0),
            piece: Piece { buffer: 0, offset: 0, bytes: 0 },
            number: 0,
            next: Link::to(index + 1),
            before: Link::NONE,
            after: Link::NONE,
            of_places: Link::NONE,
            of_buffers: Link::NONE,
        };
        self.notes = (0..(2 * full.len()).max(FEWEST)).map(free).collect();
        (self.free, self.in_domains) = (Link::to(0), 0);
        for Note { key, piece, number, .. } in full {
            self.enter(key, piece, number);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Mappings {
        /// How many notes are in use.
        fn len(&self) -> usize {
            let next = |link: &Link| Some(self.notes.get(link.index())?.next);
            let free = core::iter::successors(Some(self.free), next);
            self.notes.len() + 1 - free.count()
        }
    }

    const PIECE: Piece = Piece { buffer: 3, offset: 0, bytes: 4096 };

    #[test]
    fn what_ends_with_a_buffer_or_a_domain_is_forgotten_and_nothing_else() {
        let mut mappings = Mappings::default();
        mappings.remove_buffer(3);
        mappings.remove_domain(7);
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
        assert_eq!((mappings.len(), mappings.in_domains), (0, 0));
    }

    #[test]
    fn an_address_that_is_used_again_is_of_the_new_piece() {
        let mut mappings = Mappings::default();
        let (at, other) = ((None, 0x1000), Piece { buffer: 4, ..PIECE });
        mappings.insert(at, PIECE);
        let first = mappings.noted();
        mappings.insert(at, other);
        assert_ne!(mappings.number(at), Some(first));
        mappings.remove_buffer(3);
        assert!(mappings.is(at, other) && !mappings.is(at, PIECE));
        mappings.remove(at, first);
        assert!(mappings.is(at, other), "it was noted since");
        mappings.remove(at, mappings.noted());
        assert_eq!((mappings.len(), mappings.number(at)), (0, None));
    }

    /// Does something with few places and buffers, in no domain or one of two.
    fn act() -> impl Strategy<Value = (u8, At, u64)> {
        let domain = prop_oneof![3 => Just(None), 1 => (1..3_u64).prop_map(Some)];
        (0..10_u8, (domain, (0..48_u64).prop_map(|page| page << 16)), 0..6_u64)
    }

    fn config() -> ProptestConfig {
        let cases = if cfg!(miri) { 4 } else { 256 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]
        #[test]
        fn it_knows_what_a_map_knows(acts in prop::collection::vec(act(), 1..300)) {
            let (mut mappings, mut known) = (Mappings::default(), BTreeMap::new());
            for (what, at, buffer) in acts {
                match what {
                    0..6 => {
                        let piece = Piece { buffer, ..PIECE };
                        mappings.insert(at, piece);
                        known.insert(at, (piece, mappings.noted()));
                    }
                    6..8 => {
                        // As many had been noted some time ago.
                        let noted = mappings.noted().saturating_sub(buffer);
                        mappings.remove(at, noted);
                        known.retain(|place, (_, number)| *place != at || *number > noted);
                    }
                    8 => {
                        mappings.remove_buffer(buffer);
                        known.retain(|_, (piece, _)| piece.buffer != buffer);
                    }
                    _ => {
                        mappings.remove_domain(buffer);
                        known.retain(|(domain, _), _| *domain != Some(buffer));
                    }
                }
                prop_assert_eq!(mappings.len(), known.len());
                for (at, (piece, number)) in &known {
                    prop_assert_eq!(mappings.number(*at), Some(*number));
                    prop_assert!(mappings.is(*at, *piece));
                }
            }
            (0..6).for_each(|buffer| mappings.remove_buffer(buffer));
            prop_assert_eq!((mappings.len(), mappings.in_domains), (0, 0));
        }
    }
}
