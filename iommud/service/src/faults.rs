//! The latest blocked accesses of all devices, for reports.

use alloc::collections::VecDeque;

use iommu_engine::completion::UnitId;
use iommu_engine::fault::Fault;
use iommu_engine::platform::Instant;

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
            self.entries.pop_front();
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

    /// How many accesses were reported in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many times a unit had more than it could record.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
