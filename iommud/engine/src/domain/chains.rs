//! Mappings that were made one behind the other by one request.
//!
//! The addresses of such a chain are one range, and its mappings are noted here, until one of them is unmapped without the
//! others: then each has a range and a note of its own, as any other. Most chains are a transfer's pieces, and go as they came.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::Iova;

use super::mappings::Note;
use super::{Domain, Mapping};
use crate::iova::IovaRequest;
use crate::platform::{Segment, TableFrames};
use crate::unit::Abilities;

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

impl Link {
    /// The mapping of a client's buffer, of which a device may do as much as units can tell apart.
    #[inline]
    fn of(mapping: &Mapping, abilities: &Abilities) -> Option<Self> {
        let (access, buffer) = (abilities.permitted(mapping.access), mapping.owner.buffer()?);
        Some(Self { bytes: mapping.bytes, note: Note::of(buffer, &Mapping { access, ..*mapping }) })
    }
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
    /// Maps several parts of clients' buffers one behind the other, whose memory this is, if nothing is to be searched for that,
    /// or made. One alone is no chain.
    pub(crate) fn map_chain_at_hand(
        &mut self,
        frames: &impl TableFrames,
        request: &IovaRequest,
        memory: &[Segment],
        mappings: impl Iterator<Item = Mapping> + Clone,
    ) -> Option<Iova> {
        let Self { chains, addresses, abilities, table, .. } = self;
        let idle = addresses.idle_at_hand(request)?;
        let entries = mappings.clone().map(|it| (it.bytes, abilities.permitted(it.access)));
        if !table.map_chain_at_hand(frames, idle.iova(), memory, entries) {
            return None;
        }
        let start = idle.take();
        chains.insert(start, mappings.filter_map(|it| Link::of(&it, abilities)));
        Some(start)
    }

    /// Notes the mappings of a chain of clients' buffers, which are all of the addresses that were taken for it. One alone is no
    /// chain.
    pub(crate) fn note_chain(
        &mut self,
        start: Iova,
        mappings: impl ExactSizeIterator<Item = Mapping>,
    ) {
        let Self { chains, addresses, abilities, .. } = self;
        let is_one = mappings.len() == 1;
        let links = mappings.filter_map(|mapping| Link::of(&mapping, abilities));
        match is_one {
            true => links.for_each(|link| addresses.note(start, link.note)),
            false => chains.insert(start, links),
        }
    }

    /// The mappings of the chain that starts with these ranges, if they are just those that are in it, in their order.
    pub(crate) fn whole_chain(
        &self,
        mut ranges: impl Iterator<Item = (Iova, u64)> + Clone,
    ) -> Option<impl Iterator<Item = (Iova, Mapping)>> {
        let (start, _) = ranges.clone().next()?;
        let links = self.chains.live.get(&start)?;
        let mut next = start.get();
        let are_all = links.iter().all(|link| {
            let is_it = ranges.next() == Some((Iova::new(next), link.bytes));
            next += link.bytes;
            is_it
        });
        (are_all && ranges.next().is_none()).then(|| places(start, links))
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
