//! What was mapped for a session and is not any more: the last of it, so that a late access can be explained.

use alloc::vec::Vec;

use dma_types::{Access, Iova};
use iommu_engine::domain::{DomainKey, Mapping};
use iommu_engine::engine::Engine;
use iommu_engine::platform::Instant;

use crate::memory::label::Label;
use crate::memory::mapped::BufferMappings;
use crate::memory::mappings::MappedAt;

/// How many mappings are remembered for a session: what a driver unmaps in a few interrupts' time. That is 24 KiB.
pub const REMEMBERED: usize = 256;

/// A mapping that was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The domain that it was in.
    pub domain: DomainKey,
    /// Where it started.
    pub iova: Iova,
    /// How long it was.
    pub bytes: u64,
    /// The number of the buffer, or of the peer's BAR.
    pub buffer: u64,
    /// Where in the buffer it started.
    pub offset: u64,
    /// What the device might do.
    pub access: Access,
    /// What the buffer was called.
    pub label: Label,
    /// When it was taken away. The device may have reached it a little longer, until its unit had confirmed.
    pub at: Instant,
}

impl Past {
    /// A mapping at this place, of this buffer.
    #[inline]
    pub fn new(
        (domain, iova): MappedAt,
        mapping: &Mapping,
        (buffer, label): (u64, Label),
        at: Instant,
    ) -> Self {
        let Mapping { bytes, access, offset, .. } = *mapping;
        Self { domain, iova, bytes, buffer, offset, access, label, at }
    }
}

/// The last mappings that were taken away from a session.
///
/// Its memory is taken once, with the session: noting an unmap stores a few words, and allocates nothing.
#[derive(Debug)]
pub struct History {
    ring: Vec<Past>,
    /// Where the next goes: behind the last, or over the oldest.
    next: usize,
}

impl History {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { ring: Vec::with_capacity(REMEMBERED), next: 0 }
    }

    /// Notes a mapping that was taken away, and forgets the oldest if there is no room.
    #[inline]
    pub fn add(&mut self, past: Past) {
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = past,
            None => self.ring.push(past),
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Notes that the mappings of a buffer are about to be taken away: those in one domain, or all.
    pub(crate) fn add_all(
        &mut self,
        engine: &Engine,
        at: Instant,
        buffer: (u64, Label),
        mappings: &BufferMappings,
        only: Option<DomainKey>,
    ) {
        for mapped in mappings.keys().filter(|it| only.is_none_or(|only| only == it.0)) {
            self.add_mapping(engine, at, buffer, *mapped);
        }
    }

    /// Notes that one mapping of a buffer is about to be taken away.
    pub(crate) fn add_mapping(
        &mut self,
        engine: &Engine,
        at: Instant,
        (buffer, label): (u64, Label),
        (domain, iova): MappedAt,
    ) {
        let mapping = engine.domain(domain).and_then(|domain| domain.mapping(iova));
        if let Some(mapping) = mapping {
            self.add(Past::new((domain, iova), &mapping, (buffer, label), at));
        }
    }

    /// The mappings, the last that was taken away first.
    pub fn latest(&self) -> impl Iterator<Item = &Past> {
        let (newer, older) = self.ring.split_at(self.next.min(self.ring.len()));
        newer.iter().rev().chain(older.iter().rev())
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(number: u64) -> Past {
        Past {
            domain: DomainKey(1),
            iova: Iova::new(number << 12),
            bytes: 4096,
            buffer: number,
            offset: 0,
            access: Access::Read,
            label: Label::default(),
            at: Instant::from_nanos(number),
        }
    }

    #[test]
    fn the_last_are_remembered_and_take_no_more_memory() {
        let mut history = History::new();
        assert_eq!(history.latest().count(), 0);
        let (memory, room) = (history.ring.as_ptr(), history.ring.capacity());
        for number in 0..REMEMBERED as u64 * 2 + 3 {
            history.add(past(number));
            let latest: Vec<u64> = history.latest().map(|past| past.buffer).collect();
            let oldest = (number + 1).saturating_sub(REMEMBERED as u64);
            assert_eq!(latest, (oldest..=number).rev().collect::<Vec<_>>());
        }
        assert_eq!((history.ring.as_ptr(), history.ring.capacity()), (memory, room));
        assert!(room * size_of::<Past>() <= 28 * 1024);
    }
}
