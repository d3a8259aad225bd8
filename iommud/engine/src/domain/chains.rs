//! Mappings that were made one behind the other by one request.
//!
//! The addresses of such a chain are one range, and its mappings are noted here, until one of them is unmapped without the
//! others: then each has a range and a note of its own, as any other. Most chains are a transfer's pieces, and go as they came.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::Iova;

use super::mappings::Note;
use super::{Domain, Mapping};

/// All chains of a domain.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// The mappings of each, by where it starts.
    live: BTreeMap<Iova, Vec<Link>>,
    /// How many mappings there are more than chains.
    more: u64,
    /// What the chain that went last had its mappings in, for the next.
    spare: Vec<Link>,
}

/// A mapping of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    bytes: u64,
    note: Note,
}

impl Chains {
    fn insert(&mut self, start: Iova, links: impl Iterator<Item = Link>) {
        let mut all = core::mem::take(&mut self.spare);
        all.clear();
        all.extend(links);
        self.more += all.len() as u64 - 1;
        self.live.insert(start, all);
    }

    fn remove(&mut self, start: Iova) -> Option<Vec<Link>> {
        let links = self.live.remove(&start)?;
        self.more -= links.len() as u64 - 1;
        Some(links)
    }

    /// The chain that starts at an address or before, if one does.
    fn at_or_before(&self, iova: Iova) -> Option<(Iova, &[Link])> {
        // Of most domains there are none.
        let (start, links) = self.live.range(..=iova).next_back()?;
        Some((*start, links))
    }

    /// How many mappings there are more than chains.
    pub(super) const fn more(&self) -> u64 {
        self.more
    }

    /// The mapping in which an address lies, and where that starts.
    pub(super) fn around(&self, iova: Iova) -> Option<(Iova, Mapping)> {
        let (start, links) = self.at_or_before(iova)?;
        places(start, links).find(|(at, it)| iova.get() - at.get() < it.bytes)
    }

    /// The mapping that starts at an address.
    pub(super) fn at(&self, iova: Iova) -> Option<Mapping> {
        self.around(iova).filter(|(start, _)| *start == iova).map(|(_, mapping)| mapping)
    }

    /// Where the first chain from an address on starts.
    pub(super) fn first_from(&self, iova: Iova) -> Option<Iova> {
        self.live.range(iova..).next().map(|(start, _)| *start)
    }

    /// All mappings, by address.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (Iova, Mapping)> {
        self.live.iter().flat_map(|(start, links)| places(*start, links))
    }
}

/// The mappings of a chain.
fn places(start: Iova, links: &[Link]) -> impl Iterator<Item = (Iova, Mapping)> {
    links.iter().scan(start.get(), |next, Link { bytes, note }| {
        let at = Iova::new(*next);
        *next += bytes;
        Some((at, note.mapping(*bytes)))
    })
}

impl Domain {
    /// Notes the mappings of a chain of clients' buffers, which are all of the addresses that were taken for it. One alone is no
    /// chain.
    pub(crate) fn note_chain(
        &mut self,
        start: Iova,
        mappings: impl ExactSizeIterator<Item = Mapping>,
    ) {
        let Self { chains, addresses, abilities, .. } = self;
        let is_one = mappings.len() == 1;
        let links = mappings.filter_map(|mapping| {
            let (access, buffer) = (abilities.permitted(mapping.access), mapping.owner.buffer()?);
            let note = Note::of(buffer, &Mapping { access, ..mapping });
            Some(Link { bytes: mapping.bytes, note })
        });
        match is_one {
            true => links.for_each(|link| addresses.note(start, link.note)),
            false => chains.insert(start, links),
        }
    }

    /// The mappings of the chain that starts with these ranges, if they are just those that are in it.
    pub(crate) fn whole_chain(
        &self,
        ranges: &[(Iova, u64)],
    ) -> Option<impl Iterator<Item = (Iova, Mapping)>> {
        let (start, _) = *ranges.first()?;
        let links = self.chains.live.get(&start)?;
        let are_all = links.len() == ranges.len()
            && places(start, links).zip(ranges).all(|((at, it), range)| (at, it.bytes) == *range);
        are_all.then(|| places(start, links))
    }

    /// Forgets a chain. Its addresses stay taken: as one range, or each for itself.
    pub(crate) fn forget_chain(&mut self, start: Iova, each_for_itself: bool) {
        let Some(links) = self.chains.remove(start) else { return };
        if each_for_itself {
            let pieces = links.iter().map(|it| it.bytes);
            self.addresses.split(start, pieces);
        }
        self.chains.spare = links;
    }

    /// Has each mapping of the chain in which an address lies a range and a note of its own, if it lies in one.
    #[inline]
    pub(crate) fn break_chain(&mut self, iova: Iova) {
        if !self.chains.live.is_empty() {
            self.break_one(iova);
        }
    }

    #[inline(never)]
    fn break_one(&mut self, iova: Iova) {
        let Some((start, _)) = self.chains.at_or_before(iova) else { return };
        if self.chains.around(iova).is_none() {
            return;
        }
        let Some(links) = self.chains.remove(start) else { return };
        self.addresses.split(start, links.iter().map(|it| it.bytes));
        let mut next = start.get();
        for Link { bytes, note } in links {
            self.addresses.note(Iova::new(next), note);
            next += bytes;
        }
    }
}
