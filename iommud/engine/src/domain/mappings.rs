//! What is mapped in a domain, each by where it starts.

use dma_types::{Iova, PAGE_SIZE};

use super::Mapping;
use crate::page_map::PageMap;

/// What is mapped in a domain. Every mapping starts at a multiple of 4096, and no two overlap.
#[derive(Debug)]
pub(super) struct Mappings(PageMap<Mapping>);

impl Mappings {
    /// None.
    pub(super) const fn new() -> Self {
        Self(PageMap::new())
    }

    /// What starts at an address.
    #[inline]
    pub(super) fn get(&self, iova: Iova) -> Option<&Mapping> {
        self.0.get(page_at(iova)?)
    }

    /// What starts at an address, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, iova: Iova) -> Option<&mut Mapping> {
        self.0.get_mut(page_at(iova)?)
    }

    /// Notes what starts at an address from now on, a multiple of 4096 where nothing did.
    #[inline]
    pub(super) fn insert(&mut self, iova: Iova, mapping: Mapping) {
        self.0.insert(iova.get() / PAGE_SIZE, mapping);
    }

    /// Forgets what starts at an address.
    #[inline]
    pub(super) fn remove(&mut self, iova: Iova) -> Option<Mapping> {
        self.0.remove(page_at(iova)?)
    }

    /// The last that starts at an address or before, and where.
    pub(super) fn at_or_before(&self, iova: Iova) -> Option<(Iova, &Mapping)> {
        self.0.at_or_before(iova.get() / PAGE_SIZE).map(with_address)
    }

    /// The first that starts at an address or after, and where.
    pub(super) fn at_or_after(&self, iova: Iova) -> Option<(Iova, &Mapping)> {
        self.0.at_or_after(iova.get().div_ceil(PAGE_SIZE)).map(with_address)
    }

    /// All of them, by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Iova, &Mapping)> {
        self.0.iter().map(with_address)
    }
}

impl FromIterator<(Iova, Mapping)> for Mappings {
    fn from_iter<I: IntoIterator<Item = (Iova, Mapping)>>(all: I) -> Self {
        let mut mappings = Self::new();
        all.into_iter().for_each(|(iova, mapping)| mappings.insert(iova, mapping));
        mappings
    }
}

/// The page at an address, if one starts there.
#[inline]
fn page_at(iova: Iova) -> Option<u64> {
    iova.is_aligned(PAGE_SIZE).then(|| iova.get() / PAGE_SIZE)
}

fn with_address((page, mapping): (u64, &Mapping)) -> (Iova, &Mapping) {
    (Iova::new(page * PAGE_SIZE), mapping)
}
