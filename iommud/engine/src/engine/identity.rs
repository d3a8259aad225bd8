//! Devices that reach memory at its own addresses, because the policy says so: their drivers do not speak libdma
//! yet.
//!
//! They reach all memory but the arenas, with the tables that units walk and the buffers of others' drivers,
//! and the units' registers. Arenas grow and shrink, and their domains follow.

use alloc::vec::Vec;

use super::Engine;
use super::units::{progress, unit_mut};
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey};
use crate::error::EngineError;
use crate::machine::{GroupId, Remark};
use crate::platform::{Platform, RunId, Segment};
use crate::policy::Unopened;
use crate::retired::Retired;
use crate::segments;

impl Engine {
    /// Whether the policy leaves a group unconfined while nobody holds it. It does so only by all of its devices:
    /// one that is to reach nothing is not to reach everything through another.
    pub(super) fn is_unconfined(&self, id: GroupId) -> bool {
        let members = self.groups[id.0].members().iter().filter_map(|it| self.devices.get(it));
        let mut devices = members.filter(|device| device.function.bridge.is_none()).peekable();
        devices.peek().is_some()
            && devices.all(|device| self.policy_for(device).unopened == Unopened::Identity)
    }

    /// Says of each device of a group that it stays confined although the policy would leave it open, because another
    /// one of the group is to be confined.
    pub(super) fn remark_closed(&mut self, id: GroupId) {
        let members = self.groups[id.0].members().iter().filter_map(|it| self.devices.get(it));
        let devices = members.filter(|device| device.function.bridge.is_none());
        let (open, closed): (Vec<_>, Vec<_>) =
            devices.partition(|device| self.policy_for(device).unopened == Unopened::Identity);
        let Some(closed) = closed.first().map(|device| device.function.address) else { return };
        let remarks = open.iter().map(|device| {
            let address = device.function.address;
            Remark::StaysConfined { address, with: closed }
        });
        let new: Vec<_> = remarks.filter(|remark| !self.remarks.contains(remark)).collect();
        self.remarks.extend(new);
    }

    /// Lets what is not confined reach all memory that is not to be kept from it, and nothing else. When it does not reach
    /// what has been kept from it lately tells [`kept_from_unconfined`](Self::kept_from_unconfined).
    #[inline]
    pub fn follow_arenas(&mut self, platform: &mut impl Platform) {
        let nobody = self.unconfined.is_empty() && self.keeping.is_empty();
        if !nobody && self.arenas_followed != Some(platform.arena_changes()) {
            self.follow_changed_arenas(platform);
        }
    }

    #[inline(never)]
    fn follow_changed_arenas(&mut self, platform: &mut impl Platform) {
        // Taking pages apart takes frames, for which an arena may grow: once more then, and not forever.
        for _ in 0..4 {
            let changes = platform.arena_changes();
            let arenas = platform.arenas();
            let reached = self.unconfined_memory(platform, &arenas);
            let mut kept = true;
            for key in self.unconfined.clone() {
                kept &= self.let_reach(platform, key, &reached);
            }
            self.arenas_followed = kept.then_some(changes);
            if !kept || changes == platform.arena_changes() {
                break;
            }
        }
        let arenas = platform.arenas();
        let reached = self.unconfined.iter().filter_map(|key| self.domains.get(key));
        let reached: Vec<Segment> = reached.flat_map(Domain::identity).collect();
        let Self { keeping, units, deferred, .. } = self;
        keeping.set_unkept(segments::common(&arenas, &reached));
        keeping.update(platform, &arenas, |it| progress(units, deferred, it));
    }

    /// From when on a run of memory is out of reach of what is not confined. If its unit has failed before it confirmed that,
    /// or the run cannot be kept from it for want of frames, that is never.
    pub fn kept_from_unconfined(&self, platform: &impl Platform, run: RunId) -> Completion {
        self.keeping.completion(platform.segments(run), false)
    }

    /// All memory that a device may reach that is not confined.
    fn unconfined_memory(&self, platform: &mut impl Platform, arenas: &[Segment]) -> Vec<Segment> {
        let mut kept = arenas.to_vec();
        kept.extend(
            self.units
                .iter()
                .map(|slot| Segment { start: slot.base.page(), bytes: slot.register_bytes }),
        );
        segments::without(&platform.memory(), &kept)
    }

    /// Makes a domain's identity mappings these. False if there are others still, of what is to be kept from it.
    fn let_reach(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        reached: &[Segment],
    ) -> bool {
        let mut completion = Completion::none();
        let Some(domain) = self.domains.get_mut(&key) else { return true };
        let root = domain.root();
        let before: Vec<Segment> = domain.identity().collect();
        let (mut unlinked, mut changed) = (Vec::new(), Vec::new());
        let result = domain.map_identity(platform, reached, &mut changed, &mut unlinked);
        let frames = domain.with_payers(unlinked);
        for (unit, id) in domain.memberships() {
            let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
            if !changed.is_empty() {
                completion.add(unit, hardware.invalidate(platform, id, &changed));
            }
        }
        domain.tables_unlinked(&completion);
        let after: Vec<Segment> = domain.identity().collect();
        if domain.root() != root {
            completion.join(&self.follow_root(platform, key));
        }
        let taken = segments::without(&before, &after);
        self.keeping.add(taken, completion.clone());
        self.retire(platform, Retired { completion, frames, ..Retired::default() });
        match result {
            Ok(()) => true,
            Err(error) => {
                self.remark_unconfined(key, error);
                !matches!(error, EngineError::Unmap(_))
            }
        }
    }

    /// Says that a group does not reach all that the policy lets it.
    fn remark_unconfined(&mut self, key: DomainKey, error: EngineError) {
        let group = self.groups.iter().find(|group| group.home == Some(key));
        let address = group.and_then(|group| group.members().first().copied());
        let remark = address.map(|address| Remark::HomeNotMapped { address, error });
        // It is tried again and again.
        self.remarks.extend(remark.filter(|remark| !self.remarks.contains(remark)));
    }
}
