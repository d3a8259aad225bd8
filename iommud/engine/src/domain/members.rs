//! Which units know a domain, and what they have yet to confirm of it.

use super::Domain;
use crate::completion::{Completion, UnitId};
use crate::unit::DomainId;

/// A domain's place at one unit that devices of it are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    unit: UnitId,
    id: DomainId,
    devices: u32,
}

impl Membership {
    /// The unit, and the domain's id there.
    #[inline]
    pub(super) fn place(&self) -> (UnitId, DomainId) {
        (self.unit, self.id)
    }
}

impl Domain {
    /// The units that devices of the domain are, or were, behind, and its ids there.
    #[inline]
    pub fn memberships(&self) -> impl Iterator<Item = (UnitId, DomainId)> {
        self.memberships.iter().map(Membership::place)
    }

    /// Its id at a unit, if it has one there.
    pub fn id_at(&self, unit: UnitId) -> Option<DomainId> {
        self.memberships().find(|(at, _)| *at == unit).map(|(_, id)| id)
    }

    /// How many devices are attached.
    pub fn devices(&self) -> u32 {
        self.memberships.iter().map(|membership| membership.devices).sum()
    }

    /// Counts a device behind `unit` in, at which the domain has this id.
    pub fn device_attached(&mut self, unit: UnitId, id: DomainId) {
        match self.memberships.iter_mut().find(|membership| membership.unit == unit) {
            Some(membership) => membership.devices += 1,
            None => self.memberships.push(Membership { unit, id, devices: 1 }),
        }
    }

    /// Gives it an id at a unit that none of its devices is behind yet.
    pub fn make_known(&mut self, unit: UnitId, id: DomainId) {
        self.memberships.push(Membership { unit, id, devices: 0 });
    }

    /// Counts a device behind `unit` out. Until `completion` the unit may still use the table.
    pub fn device_detached(&mut self, unit: UnitId, completion: &Completion) {
        if let Some(membership) =
            self.memberships.iter_mut().find(|membership| membership.unit == unit)
        {
            membership.devices = membership.devices.saturating_sub(1);
        }
        self.held_until(completion);
    }

    /// Notes that a unit may still use the table until `completion`, though no device counts as attached by it.
    pub fn held_until(&mut self, completion: &Completion) {
        self.detached.join(completion);
    }

    /// What units have yet to confirm before none of them uses the table for devices that were detached.
    pub fn detached(&self) -> &Completion {
        &self.detached
    }

    /// Notes that tables were unlinked, which units may walk until `completion`.
    pub fn tables_unlinked(&mut self, completion: &Completion) {
        self.unlinked.join(completion);
    }

    /// What units have yet to confirm before they see what is mapped in new tables.
    pub fn unlinked(&self) -> &Completion {
        &self.unlinked
    }

    /// Notes that tables were made which units walk only from `completion` on.
    pub fn catch_up(&mut self, completion: &Completion) {
        self.catching_up.join(completion);
    }

    /// What units have yet to confirm before they walk all tables that there are.
    #[inline]
    pub fn catching_up(&self) -> &Completion {
        &self.catching_up
    }

    /// Notes that they have.
    pub fn caught_up(&mut self) {
        self.catching_up = Completion::none();
    }
}
