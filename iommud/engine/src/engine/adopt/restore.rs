//! The engine's domains, groups and ids as they were.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::{Iova, PciAddress, SourceId};

use super::read::Written;
use super::tables::{Seen, SeenDomain};
use super::{HeldDevice, LeftRun, Owners};
use crate::completion::{Completion, Ticket, UnitId};
use crate::domain::{Domain, DomainKey};
use crate::engine::Engine;
use crate::engine::units::unit_mut;
use crate::ledger::Slot;
use crate::machine::{Found, GroupId, Remark, ReservedRange};
use crate::payer::Payer;
use crate::platform::{Platform, RunId, Segment};
use crate::policy::Policy;
use crate::records::{AttachmentRecord, EpochRecord, Purpose, ReserveRecord};
use crate::reserve::{Place, Reserve};
use crate::retired::{Retired, RetiredRun};
use crate::unit::{DomainId, Translation};

/// Makes an engine of what was found. Every unit is asked to forget everything before it is up, which is its first ticket:
/// what is taken away here is confirmed by that.
pub(super) fn restore(
    platform: &mut impl Platform,
    policy: Policy,
    owners: &Owners,
    written: Written,
    found: Found,
    seen: Seen,
) -> Engine {
    let Written { ledger, attachments, reserves, epoch: (slot, EpochRecord(before)), .. } = written;
    let epoch = EpochRecord(before.saturating_add(1));
    ledger.update(platform, slot, &epoch);
    let mut engine = Engine {
        next_domain: epoch.before_first() + 1,
        is_taking_over: true,
        ..Engine::new(found, policy, ledger)
    };
    engine.restore_reserves(platform, &reserves, owners);
    let Seen { mut translations, domains } = seen;
    engine.restore_domains(platform, domains, owners);
    engine.restore_attachments(platform, &attachments, &mut translations);
    // What is translated and nobody has a record of is blocked.
    for ((unit, source), translation) in translations {
        if let Some(hardware) = unit_mut(&mut engine.units, unit) {
            hardware.detach(platform, source, translation.domain);
        }
    }
    for slot in &mut engine.units {
        if let Ok(unit) = &mut slot.unit {
            unit.end_silences(platform);
        }
    }
    engine.block_again(platform, &owners.blocked);
    engine.restore_groups(platform, owners);
    engine.drop_unowned(platform, owners);
    engine.free_left(platform, owners);
    engine.follow_arenas(platform);
    engine.poll(platform);
    engine
}

impl Engine {
    /// What no unit holds any more of a predecessor's.
    fn forgotten(&self) -> Completion {
        let mut all = Completion::none();
        for (index, slot) in self.units.iter().enumerate() {
            if slot.unit.is_ok() {
                all.add(UnitId(index as u16), Ticket::FIRST);
            }
        }
        all
    }

    fn restore_reserves(
        &mut self,
        platform: &impl Platform,
        records: &[(Slot, ReserveRecord)],
        owners: &Owners,
    ) {
        for (slot, ReserveRecord { owner, run, is_going, .. }) in records {
            let at = self.reserves.iter().position(|reserve| reserve.owner() == *owner);
            let at = at.unwrap_or_else(|| {
                let device = owner.and_then(|owner| self.devices.get(&owner));
                let wanted = match device {
                    Some(device) => self.policy_for(device).reserve,
                    None => self.policy.reserve,
                };
                self.reserves.push(Reserve::new(*owner, wanted));
                self.reserves.len() - 1
            });
            self.reserves[at].add(*run, platform.segments(*run), Some(*slot));
            if *is_going {
                self.reserves[at].withhold(*run);
            }
        }
        let owned = owners.buffers.iter().map(|buffer| buffer.run);
        let parts: BTreeSet<RunId> = owned.chain(owners.left.iter().map(|left| left.run)).collect();
        for part in parts {
            let [only] = platform.segments(part) else { continue };
            for (_, ReserveRecord { run: whole, .. }) in records {
                let mut offset = 0;
                for segment in platform.segments(*whole) {
                    let within = only.start.get().checked_sub(segment.start.get());
                    if let Some(within) = within.filter(|within| *within < segment.bytes) {
                        let Segment { start, bytes } = *only;
                        let place = Place { whole: *whole, offset: offset + within, start, bytes };
                        self.reserves.iter_mut().for_each(|reserve| reserve.inherit(place, part));
                    }
                    offset += segment.bytes;
                }
            }
        }
    }

    /// Restores every domain with what in it belongs to somebody. The rest of it goes.
    fn restore_domains(
        &mut self,
        platform: &mut impl Platform,
        domains: BTreeMap<DomainKey, SeenDomain>,
        owners: &Owners,
    ) {
        let forgotten = self.forgotten();
        let reserved: Vec<ReservedRange> = self.plan.reserved().collect();
        let memory: Vec<Segment> =
            reserved.iter().map(|it| Segment { start: it.start, bytes: it.bytes }).collect();
        for (key, seen) in domains {
            let mut mappings = seen.mappings(platform, key, owners, &memory);
            let SeenDomain { slot, record, mut table, mut addresses, .. } = seen;
            mappings.retain(|iova, mapping| {
                // Nothing of a client's lies where nothing is given out.
                mapping.owner.buffer().is_none()
                    || addresses.take_at(*iova, mapping.bytes, Iova::new(u64::MAX)).is_ok()
            });
            let mut keeps = |iova: Iova| {
                mappings
                    .range(..=iova)
                    .next_back()
                    .is_some_and(|(start, mapping)| iova.get() - start.get() < mapping.bytes)
            };
            let mut frames = Vec::new();
            // It was looked at before, and nobody has written to it since.
            let _ = table.prune(platform, &mut keeps, &mut frames);
            let (completion, nobody) = (forgotten.clone(), Payer::NOBODY);
            let frames = frames.into_iter().map(|frame| (frame, nobody)).collect();
            self.retire(platform, Retired { completion, frames, ..Retired::default() });
            let made_for = record.made_for.into_iter().flatten();
            let groups: Vec<GroupId> =
                made_for.filter_map(|it| Some(self.devices.get(&it)?.group)).collect();
            let members = groups.iter().filter_map(|id| self.groups.get(id.0));
            let members: Vec<_> = members.flat_map(|it| it.members().iter().copied()).collect();
            let mut domain = Domain::found(&record, slot, table, addresses, members, mappings);
            // Units may hold anything of before.
            domain.held_until(&forgotten);
            domain.tables_unlinked(&forgotten);
            domain.catch_up(&forgotten);
            self.domains.insert(key, domain);
            let group = groups.first().filter(|_| match record.purpose {
                Purpose::Own | Purpose::Explicit => false,
                Purpose::Home | Purpose::Unconfined => true,
            });
            let Some(id) = group else { continue };
            let is_unconfined = self.is_unconfined(*id);
            let Some(group) = self.groups.get_mut(id.0) else { continue };
            // The policy may be another by now.
            if group.home.is_none() && is_unconfined == (record.purpose == Purpose::Unconfined) {
                group.home = Some(key);
                if is_unconfined {
                    self.unconfined.push(key);
                }
            }
        }
    }

    /// Restores which groups are attached to what. Of those that are so by all of their requesters, the entries are taken
    /// out of `translations`; the records of all others are struck out.
    fn restore_attachments(
        &mut self,
        platform: &mut impl Platform,
        attachments: &[(Slot, AttachmentRecord)],
        translations: &mut BTreeMap<(UnitId, SourceId), Translation>,
    ) {
        let mut left: BTreeMap<PciAddress, (Slot, AttachmentRecord)> =
            attachments.iter().map(|(slot, it)| (it.device, (*slot, *it))).collect();
        for index in 0..self.groups.len() {
            let group = &self.groups[index];
            let (Some(unit), segment) = (group.unit, group.spec.segment) else { continue };
            let requesters = group.spec.requesters.to_vec();
            let records: Vec<_> = requesters
                .iter()
                .filter_map(|source| left.get(&PciAddress::from_source(segment, *source)).copied())
                .collect();
            let Some((_, first)) = records.first().copied() else { continue };
            let (key, id) = (DomainKey(first.domain), DomainId::new(first.id));
            let Some(domain) = self.domains.get_mut(&key) else { continue };
            let entries: Vec<_> = requesters
                .iter()
                .filter_map(|source| translations.get(&(unit, *source)).copied())
                .collect();
            let same = |(_, record): &(Slot, AttachmentRecord)| {
                (record.domain, record.id) == (first.domain, first.id)
            };
            let (root, levels) = (domain.root(), domain.levels());
            let leads_there = |entry: &Translation| {
                entry.domain == id
                    && ((entry.table, entry.levels) == (root, levels)
                        || domain.has_grown_from(platform, entry.table, entry.levels))
            };
            let whole = records.len() == requesters.len()
                && entries.len() == requesters.len()
                && records.iter().all(same)
                && entries.iter().all(leads_there);
            let Some(hardware) = unit_mut(&mut self.units, unit).filter(|_| whole) else {
                continue;
            };
            if domain.id_at(unit).is_none() && !hardware.domain_ids().take_again(id) {
                continue;
            }
            domain.device_attached(unit, id);
            let translation = Translation { domain: id, table: root, levels };
            for source in &requesters {
                if translations.remove(&(unit, *source)) != Some(translation) {
                    hardware.retarget(platform, *source, translation);
                }
                left.remove(&PciAddress::from_source(segment, *source));
                hardware.goes_on(*source);
            }
            let forgotten = Completion::one(unit, Ticket::FIRST);
            let group = &mut self.groups[index];
            group.attached = Some(key);
            group.slots = records.iter().map(|(slot, _)| *slot).collect();
            group.entering = forgotten.clone();
            group.leaving = forgotten;
        }
        for (slot, _) in left.into_values() {
            self.ledger.remove(platform, slot);
        }
    }

    /// Has each group be where those who hold its devices have their buffers, or at home.
    fn restore_groups(&mut self, platform: &mut impl Platform, owners: &Owners) {
        for HeldDevice { device, own } in &owners.held {
            let Some(id) = self.devices.get(device).map(|device| device.group) else { continue };
            let Some(group) = self.groups.get(id.0) else { continue };
            if group.blocked.is_some() {
                self.groups[id.0].holders.insert(*device);
                continue;
            }
            let is_there =
                group.attached.is_some_and(|key| key == *own || owners.explicit.contains(&key));
            if !is_there && !group.is_held() && self.domains.contains_key(own) {
                // It was on its way.
                let entered = self.leave(platform, id).and_then(|_| self.enter(platform, id, *own));
                if let Err(error) = entered {
                    self.remarks.push(Remark::HomeNotMapped { address: *device, error });
                }
            }
            self.groups[id.0].holders.insert(*device);
        }
        for id in (0..self.groups.len()).map(GroupId) {
            let group = &self.groups[id.0];
            let is_home = group.attached.is_some() && group.attached == group.home;
            if group.is_held() || is_home || group.blocked.is_some() {
                continue;
            }
            let is_covered = group.unit.is_some();
            if is_covered && self.leave(platform, id).is_ok() {
                self.go_home(platform, id);
            }
        }
    }

    /// Ends the domains that belong to nobody.
    fn drop_unowned(&mut self, platform: &mut impl Platform, owners: &Owners) {
        let is_owned = |key: &DomainKey, engine: &Self| {
            owners.held.iter().any(|held| held.own == *key)
                || owners.explicit.contains(key)
                || engine.groups.iter().any(|group| group.home == Some(*key))
        };
        let keys: Vec<DomainKey> = self.domains.iter().map(|(key, _)| key).collect();
        for key in keys {
            if is_owned(&key, self) {
                continue;
            }
            // Who is in it nevertheless reaches nothing.
            for id in (0..self.groups.len()).map(GroupId) {
                if self.groups[id.0].attached == Some(key) {
                    let _ = self.leave(platform, id);
                }
            }
            let _ = self.destroy_domain(platform, key);
        }
    }

    /// Frees what is nobody's any more.
    fn free_left(&mut self, platform: &mut impl Platform, owners: &Owners) {
        for LeftRun { run, bytes, record, .. } in owners.left.iter().copied() {
            let (payer, record) = (Payer::NOBODY, Some(record));
            let left = RetiredRun { run, bytes, payer, record };
            self.free_run_after(platform, self.forgotten(), left);
        }
    }

    /// Says that nothing of a predecessor's is in use but what was kept, once all units have forgotten all else.
    pub(in crate::engine) fn settle_inherited(&mut self, platform: &mut impl Platform) {
        if !self.is_taking_over || !self.is_settled() {
            return;
        }
        self.is_taking_over = false;
        // What a unit that has failed may still reach nobody knows.
        if self.running_units().all(|unit| !unit.has_failed()) {
            platform.settle_inherited();
            self.renew_reserves(platform);
        }
    }
}
