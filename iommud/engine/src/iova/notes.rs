//! What holders of addresses note of them.

use dma_types::{Iova, PAGE_SIZE};

use super::held::{Held, Place};
use super::{IovaAllocator, IovaRange};

impl<N: Copy + Default> IovaAllocator<N> {
    /// Notes something of the live allocation that starts at `iova`, in the place of what was noted. Without one, nothing
    /// happens.
    #[inline]
    pub fn note(&mut self, iova: Iova, note: N) {
        let known = self.held.find(iova.get() / PAGE_SIZE);
        if let Some((_, held)) = known.filter(|(_, held)| !held.extent.is_idle()) {
            held.note = note;
            held.extent = held.extent.noted();
        }
    }

    /// What is noted of the live allocation that is exactly `bytes` at `iova`, and where its record is.
    #[inline]
    pub(crate) fn find_noted(&mut self, iova: Iova, bytes: u64) -> Option<(Place, N)> {
        let (place, held) = self.held.find(page_at(iova)?)?;
        noted(held).filter(|(known, _)| *known == bytes).map(|(_, note)| (place, note))
    }

    /// What is noted of the live allocation that starts at `iova`, and its length in bytes.
    #[inline]
    pub fn noted(&self, iova: Iova) -> Option<(u64, N)> {
        let held = self.held.get(page_at(iova)?)?;
        noted(held)
    }

    /// Forgets what is noted of an allocation, which stays live: that of which the record was found here, and none was freed since.
    #[inline]
    pub(crate) fn forget(&mut self, place: Place) {
        let held = self.held.at(place);
        held.extent = held.extent.without_note();
    }

    /// The allocation in which an address lies, if something is noted of it.
    pub fn noted_around(&self, iova: Iova) -> Option<(IovaRange, N)> {
        let (start, held) = self.held.at_or_before(iova.get() / PAGE_SIZE)?;
        let (bytes, note) = noted(held)?;
        let start = Iova::new(start * PAGE_SIZE);
        (iova.get() - start.get() < bytes).then_some((IovaRange::new(start, bytes), note))
    }

    /// All allocations that start at `iova` or after of which something is noted, by address.
    pub fn noted_from(&self, iova: Iova) -> impl Iterator<Item = (IovaRange, N)> {
        self.held.iter_from(iova.get().div_ceil(PAGE_SIZE)).filter_map(|(start, held)| {
            let (bytes, note) = noted(held)?;
            Some((IovaRange::new(Iova::new(start * PAGE_SIZE), bytes), note))
        })
    }
}

/// The page that starts at an address, if one does.
#[inline]
pub(super) fn page_at(iova: Iova) -> Option<u64> {
    iova.is_aligned(PAGE_SIZE).then(|| iova.get() / PAGE_SIZE)
}

/// What is noted of a range, and its length in bytes. Of what is idle nothing is.
#[inline]
fn noted<N: Copy>(held: &Held<N>) -> Option<(u64, N)> {
    held.extent.is_noted().then(|| (held.extent.bytes(), held.note))
}
