//! The latest blocked accesses: of all devices, for reports, and for each session those that it has not read.

use alloc::collections::VecDeque;

use iommu_engine::completion::UnitId;
use iommu_engine::fault::Fault;
use iommu_engine::platform::Instant;

/// How many are kept: the latest, for a device that goes wild says the same thing over and over.
pub const KEPT: usize = 256;

/// How many are kept for a session that does not read them.
pub const UNREAD: usize = 64;

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
#[derive(Debug)]
pub struct FaultLog {
    entries: VecDeque<Entry>,
    most: usize,
    total: u64,
    lost: u64,
    dropped: u64,
}

impl FaultLog {
    /// Nothing yet, and room for this many.
    pub fn new(most: usize) -> Self {
        Self { entries: VecDeque::new(), most, total: 0, lost: 0, dropped: 0 }
    }

    /// Adds one. The same again as the last only counts.
    pub fn add(&mut self, at: Instant, unit: UnitId, segment: u16, fault: Fault) {
        self.total += 1;
        if let Some(last) = self.entries.back_mut()
            && (last.unit, last.segment, last.fault) == (unit, segment, fault)
        {
            last.times += 1;
            return;
        }
        if self.entries.len() >= self.most
            && let Some(oldest) = self.entries.pop_front()
        {
            self.dropped += oldest.times;
        }
        let number = self.total;
        self.entries.push_back(Entry { number, at, unit, segment, fault, times: 1 });
    }

    /// Notes that a unit had more than it could record, so that some are missing here.
    pub fn add_lost(&mut self) {
        self.lost += 1;
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Takes out the oldest, at most this many.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = Entry> {
        self.entries.drain(..count.min(self.entries.len()))
    }

    /// How many accesses were dropped for want of room since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
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
