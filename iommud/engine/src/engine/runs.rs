//! Memory for clients' buffers: of the platform's, and of what was set aside for it.

use alloc::vec::Vec;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};

use super::Engine;
use crate::ledger::{Ledger, Slot};
use crate::machine::Remark;
use crate::platform::{ContiguityError, Platform, RunId};
use crate::records::ReserveRecord;
use crate::reserve::{Removed, Reserve};

/// The smallest run that a reserve is made of, if it is not smaller itself: pieces below are to be had without.
const SMALLEST_RUN: u64 = 64 << 10;

/// Memory in one physical piece that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct PieceSpec {
    /// For this device.
    pub device: PciAddress,
    /// This much: a multiple of 4096, not zero.
    pub bytes: u64,
    /// What its start is a multiple of, beside its length rounded up to a power of two: a power of two.
    pub align: u64,
    /// The highest physical address that it may have.
    pub limit: PhysAddr,
    /// Whether what was set aside is asked first, and not last.
    pub reserve_first: bool,
}

impl Engine {
    /// A run that is one physical piece: of the device's own reserve, of the reserve for all, or of the platform's
    /// memory.
    ///
    /// # Errors
    ///
    /// Those of the [platform](crate::platform::BufferRuns::alloc_contiguous_run).
    pub fn alloc_contiguous_run(
        &mut self,
        platform: &mut impl Platform,
        spec: &PieceSpec,
    ) -> Result<RunId, ContiguityError> {
        if spec.reserve_first
            && let Some(part) = self.part_of_reserve(platform, spec)
        {
            return Ok(part);
        }
        let run = platform.alloc_contiguous_run(spec.bytes, spec.limit);
        if run.is_err()
            && !spec.reserve_first
            && let Some(part) = self.part_of_reserve(platform, spec)
        {
            return Ok(part);
        }
        run
    }

    fn part_of_reserve(&mut self, platform: &mut impl Platform, spec: &PieceSpec) -> Option<RunId> {
        let mut reserves: Vec<_> = self.reserves.iter_mut().collect();
        reserves.retain(|reserve| reserve.is_for(spec.device));
        // Its own, if it has one, comes before that of all.
        reserves.sort_by_key(|reserve| reserve.owner().is_none());
        reserves.into_iter().find_map(|reserve| {
            let place = reserve.find(spec.bytes, spec.align, spec.limit)?;
            let part = platform.part_run(place.whole, place.offset, spec.bytes)?;
            reserve.take(place, part);
            Some(part)
        })
    }

    /// The longest physical piece that a device can ever have, in bytes: of the platform's memory, or of what was set
    /// aside for it or for all.
    pub fn longest_piece(&self, platform: &impl Platform, device: PciAddress) -> u64 {
        let reserves = self.reserves.iter().filter(|reserve| reserve.is_for(device));
        reserves.map(Reserve::longest).fold(platform.longest_piece(), u64::max)
    }

    /// Takes a run back that no device reaches and no client has seen: it is its reserve's again, or the platform's.
    pub fn free_run(&mut self, platform: &mut impl Platform, run: RunId) {
        platform.free_run(run);
        let _ = self.reserves.iter_mut().any(|reserve| reserve.give_back(run));
    }

    /// The same of one that clients have seen, and of which there is this record. What is of a reserve is given to nobody else: its
    /// record stays.
    pub(super) fn free_seen_run(
        &mut self,
        platform: &mut impl Platform,
        run: RunId,
        record: Option<Slot>,
    ) {
        if self.reserves.iter_mut().any(|reserve| reserve.retire(run, record)) {
            return self.renew_reserves(platform);
        }
        // First the record: a successor that finds one of memory that there is no more believes none of them.
        record.into_iter().for_each(|slot| self.strike_record(platform, slot));
        self.free_run(platform, run);
        self.renew_reserves(platform);
    }

    /// Gives runs of reserves back of which nothing is in use and something can never be, and takes others in their place.
    pub(super) fn renew_reserves(&mut self, platform: &mut impl Platform) {
        for index in 0..self.reserves.len() {
            while let Some(whole) = self.reserves.get(index).and_then(Reserve::idle) {
                self.renew(platform, index, whole);
                self.follow_arenas(platform);
            }
        }
    }

    fn renew(&mut self, platform: &mut impl Platform, index: usize, whole: RunId) {
        let Some(reserve) = self.reserves.get_mut(index) else { return };
        // From here on no successor gives anything of it out, whatever else it finds.
        if let Some(slot) = reserve.record(whole)
            && let Some(record) = Ledger::read::<ReserveRecord>(platform, slot)
        {
            self.ledger.update(platform, slot, &ReserveRecord { is_going: true, ..record });
        }
        let Some(Removed { bytes, record, parts }) = reserve.remove(whole) else { return };
        for (part, record) in parts {
            record.into_iter().for_each(|slot| self.ledger.remove(platform, slot));
            platform.free_run(part);
        }
        record.into_iter().for_each(|slot| self.ledger.remove(platform, slot));
        platform.free_run(whole);
        take_memory(platform, &mut self.ledger, reserve, bytes);
    }

    /// What is set aside.
    pub fn reserves(&self) -> &[Reserve] {
        &self.reserves
    }

    /// Sets memory aside as the policy says: for all devices, and for those that are there now. It is never more than half
    /// of the machine's memory. What is not to be had is done without.
    pub(super) fn set_memory_aside(&mut self, platform: &mut impl Platform) {
        let all = (None, self.policy.reserve);
        let own = self.devices.values().filter(|device| !device.is_infrastructure());
        let own =
            own.map(|device| (Some(device.function.address), self.policy_for(device).reserve));
        let wanted: Vec<_> = core::iter::once(all).chain(own).filter(|(_, it)| *it > 0).collect();
        if wanted.is_empty() {
            return;
        }
        let memory = platform.memory();
        let total = memory.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.bytes));
        let mut left = if memory.is_empty() { u64::MAX } else { total / 2 };
        for (owner, wanted) in wanted {
            let mut reserve = Reserve::new(owner, wanted);
            take_memory(platform, &mut self.ledger, &mut reserve, wanted.min(left));
            left -= reserve.bytes();
            if reserve.bytes() < wanted {
                let bytes = reserve.bytes();
                self.remarks.push(Remark::ReserveShort { owner, wanted, bytes });
            }
            self.reserves.push(reserve);
        }
    }
}

/// Adds `wanted` bytes to a reserve, or as much as there is.
fn take_memory(
    platform: &mut impl Platform,
    ledger: &mut Ledger,
    reserve: &mut Reserve,
    wanted: u64,
) {
    let mut wanted = wanted & !(PAGE_SIZE - 1);
    let least = SMALLEST_RUN.min(wanted);
    let mut longest = wanted;
    while wanted > 0 && longest >= least {
        let bytes = longest.min(wanted);
        let Some(run) = platform.alloc_divisible_run(bytes) else {
            longest = (bytes / 2) & !(PAGE_SIZE - 1);
            continue;
        };
        let record = platform.place(run).map(|place| {
            let owner = reserve.owner();
            ledger.insert(platform, &ReserveRecord { owner, run, place, is_going: false })
        });
        let Ok(record) = record.transpose() else {
            // A successor would take nothing of it for its own.
            return platform.free_run(run);
        };
        let segments = platform.segments(run);
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        reserve.add(run, segments, record);
        wanted = wanted.saturating_sub(bytes);
    }
}
