//! The latest blocked accesses of all devices, for reports.

use alloc::collections::VecDeque;

use iommu_engine::completion::UnitId;
use iommu_engine::fault::Fault;
use iommu_engine::platform::Instant;

use crate::faults::noting::MOST_OF_ONE;

/// How many are kept: the latest, for a device that goes wild says the same thing over and over.
pub const KEPT: usize = 256;

/// A blocked access, with when and how often.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts up from 1.
    pub number: u64,
    /// When it was first read from the unit.
    pub at: Instant,
    /// The unit that blocked it.
    pub unit: UnitId,
    /// The unit's segment.
    pub segment: u16,
    /// What happened.
    pub fault: Fault,
    /// How many times in a row.
    pub times: u64,
}

/// The latest blocked accesses, and how many there were in all.
#[derive(Debug, Default)]
pub struct FaultLog {
    entries: VecDeque<Entry>,
    total: u64,
    lost: u64,
    dropped: u64,
}

impl FaultLog {
    /// Adds one. The same again as the last only counts.
    pub fn add(&mut self, at: Instant, unit: UnitId, segment: u16, fault: Fault) {
        self.total += 1;
        if let Some(last) = self.entries.back_mut()
            && (last.unit, last.segment, last.fault) == (unit, segment, fault)
        {
            last.times += 1;
            return;
        }
        if self.entries.len() >= KEPT {
            self.make_room();
        }
        let number = self.total;
        self.entries.push_back(Entry { number, at, unit, segment, fault, times: 1 });
    }

    /// Forgets the oldest; of one requester of which there are many, if there is one, so that those of others stay.
    fn make_room(&mut self) {
        let of = |entry: &Entry| (entry.segment, entry.fault.device);
        let count = |who| self.entries.iter().filter(|entry| of(entry) == who).count();
        let newest = self.entries.back().map(of);
        let wild = newest.filter(|who| count(*who) >= MOST_OF_ONE);
        let oldest = wild.and_then(|who| self.entries.iter().position(|entry| of(entry) == who));
        self.entries.remove(oldest.unwrap_or(0));
    }

    /// Counts an access of which nothing is kept.
    pub fn add_dropped(&mut self) {
        self.total += 1;
        self.dropped += 1;
    }

    /// How many there were of which nothing is kept, because their requester made too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Notes that a unit had more than it could record, so that some are missing here.
    pub fn add_lost(&mut self) {
        self.lost += 1;
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// How many accesses were reported in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many times a unit had more than it could record.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
