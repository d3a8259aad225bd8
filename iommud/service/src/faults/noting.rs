//! What becomes of each blocked access that a unit has recorded: it is told, or counted, or the last that the policy
//! allows.

use alloc::vec::Vec;

use dma_types::SourceId;
use iommu_engine::completion::UnitId;
use iommu_engine::engine::Event;
use iommu_engine::fault::Fault;
use iommu_engine::platform::{Instant, Platform};
use iommu_engine::policy::QuarantineAfter;

use crate::faults::events::{Entry, What};
use crate::faults::storms::{AT_ONCE, Requester, SILENCE, Silence};
use crate::service::Service;

impl<P: Platform> Service<P> {
    /// Reads what the units have recorded, and ends silences whose time is over.
    pub(crate) fn log_faults(&mut self) {
        let now = self.platform.now();
        for event in self.engine.take_events(&mut self.platform) {
            match event {
                Event::Fault { unit, segment, fault } => self.note(now, unit, segment, fault),
                Event::FaultsLost { .. } => self.faults.add_lost(),
            }
        }
        for Silence { unit, source, .. } in self.storms.take_ended(now) {
            self.engine.silence(&mut self.platform, unit, source, false);
        }
    }

    fn note(&mut self, now: Instant, unit: UnitId, segment: u16, fault: Fault) {
        let (requester, limits) = self.requester(segment, fault.device);
        let verdict = self.storms.count(requester, now, &limits);
        if verdict.is_told {
            self.faults.add(now, unit, segment, fault);
            self.note_unread(now, unit, segment, fault);
        } else {
            self.faults.add_dropped();
            for session in self.concerned(segment, fault.device) {
                self.drop_unread(session);
            }
        }
        let limit = verdict.quarantines;
        if limit.is_some_and(|limit| self.quarantine(now, requester, fault, limit)) {
            return;
        }
        if let (true, Some(source)) = (verdict.silences, fault.device) {
            self.engine.silence(&mut self.platform, unit, source, true);
            self.storms.silenced(requester, unit, source, now);
            let what = What::Silenced { source, lasts: SILENCE };
            for session in self.concerned(segment, Some(source)) {
                self.tell(session, Entry { at: now, what });
            }
        }
    }

    /// Who signed a request, and after how many faults the policy has it quarantined, or others that sign so. All that is
    /// not known to be any device's is one.
    fn requester(
        &self,
        segment: u16,
        source: Option<SourceId>,
    ) -> (Requester, Vec<QuarantineAfter>) {
        let signers = source.map_or_else(Vec::new, |it| self.engine.signers(segment, it));
        let limits = signers.iter().filter_map(|device| self.engine.policy_for(device).quarantine);
        ((segment, source.filter(|_| !signers.is_empty())), limits.collect())
    }
}

/// How many of the report's entries are at most one requester's, so that others' stay.
pub(crate) const MOST_OF_ONE: usize = AT_ONCE as usize;
