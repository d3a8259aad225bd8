//! Devices in and out of domains, a group at a time.

use dma_types::PciAddress;

use super::Engine;
use super::units::unit_mut;
use crate::completion::{Completion, UnitId};
use crate::domain::DomainKey;
use crate::error::EngineError;
use crate::machine::{GroupId, Remark};
use crate::pci;
use crate::platform::Platform;
use crate::records::AttachmentRecord;
use crate::retired::Retired;
use crate::unit::{DomainId, Translation};

impl Engine {
    /// Attaches a device to a domain: from the completion on at the latest, it reaches what is mapped
    /// there.
    ///
    /// The whole group of the device goes with it, for its members cannot be told apart or kept from each
    /// other. Another member can then be attached to the same domain, and to no other.
    ///
    /// # Errors
    ///
    /// [`EngineError::AlreadyAttached`], [`EngineError::GroupElsewhere`] if a member of its group is attached to
    /// another domain, and why the unit or the domain cannot be used; nothing has changed.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let id = self.group_of(device)?;
        let group = &self.groups[id.0];
        if group.holders.contains(&device) {
            return Err(EngineError::AlreadyAttached(device));
        }
        if group.blocked.is_some() {
            return Err(EngineError::Blocked(device));
        }
        self.check_usable(device)?;
        if let Some(holder) = group.holders.first() {
            if group.attached != Some(key) {
                return Err(EngineError::GroupElsewhere(device, *holder));
            }
            let completion = group.entering.clone();
            self.groups[id.0].holders.insert(device);
            return Ok(completion);
        }
        self.check_compatible_group(id, key)?;
        let had_home = self.groups[id.0].home.is_some();
        if had_home {
            self.leave(platform, id)?;
        }
        match self.enter(platform, id, key) {
            Ok(completion) => {
                self.groups[id.0].holders.insert(device);
                self.follow_arenas(platform);
                Ok(completion)
            }
            Err(error) => {
                self.go_home(platform, id);
                Err(error)
            }
        }
    }

    /// Moves a device from the domain that it is attached to into another. In between it reaches nothing; from the
    /// completion on it reaches what is mapped in the other, and nothing of before.
    ///
    /// The whole group of the device goes with it, of which no other member may be attached.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotAttached`], [`EngineError::AlreadyAttached`] if it is there already,
    /// [`EngineError::GroupElsewhere`] for another member that is attached, and why the unit or the domain cannot be
    /// used. Nothing has changed, nor has the device been out of reach of anything.
    pub fn transfer(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let id = self.group_of(device)?;
        let group = &self.groups[id.0];
        if group.blocked.is_some() {
            return Err(EngineError::Blocked(device));
        }
        let from = group.attached.ok_or(EngineError::NotAttached(device))?;
        if !group.holders.contains(&device) {
            return Err(EngineError::NotAttached(device));
        }
        if let Some(other) = group.holders.iter().find(|holder| **holder != device) {
            return Err(EngineError::GroupElsewhere(device, *other));
        }
        if from == key {
            return Err(EngineError::AlreadyAttached(device));
        }
        if !self.domains.contains_key(&key) {
            return Err(EngineError::NoSuchDomain(key));
        }
        self.check_usable(device)?;
        self.check_compatible_group(id, key)?;
        self.make_known(id, key)?;
        self.leave(platform, id)?;
        self.enter(platform, id, key).inspect_err(|_| {
            // The records and tables of before are there to be used again. Were it to fail all the same, the group
            // would reach nothing.
            let back = self.enter(platform, id, from);
            if let Err(error) = back {
                self.remarks.push(Remark::HomeNotMapped { address: device, error });
            }
        })
    }

    /// Takes a device that cannot be moved out of the domain that it is attached to: its group reaches nothing from then
    /// on, until it is detached.
    pub fn cut_off(&mut self, platform: &mut impl Platform, device: PciAddress) {
        if let Ok(id) = self.group_of(device) {
            // What units may hold of the domain is noted there.
            let _ = self.leave(platform, id);
        }
    }

    /// Gives a domain an id at a group's unit, if it has none there, while the group is elsewhere still.
    ///
    /// A domain keeps its ids until its end, and a driver can make many. Each group that nobody holds is to find an id when
    /// somebody opens it, so as many are left.
    fn make_known(&mut self, id: GroupId, key: DomainKey) -> Result<(), EngineError> {
        let Some(unit) = self.groups[id.0].unit.filter(|_| self.has_iommu()) else { return Ok(()) };
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.id_at(unit).is_none() {
            let groups = self.groups.iter().filter(|group| group.unit == Some(unit));
            let is_driven =
                |it| self.devices.get(it).is_some_and(|device| !device.is_infrastructure());
            let closed = groups
                .filter(|group| group.holders.is_empty() && group.members().iter().any(is_driven))
                .count();
            let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::UnitFailed)?;
            if hardware.domain_ids().left() as usize <= closed {
                return Err(EngineError::OutOfDomainIds);
            }
            let domain_id = hardware.domain_ids().take().ok_or(EngineError::OutOfDomainIds)?;
            domain.make_known(unit, domain_id);
        }
        Ok(())
    }

    /// Detaches a device from its domain. When it was the last of its group, the group reaches what firmware
    /// reserves for it, or nothing, and after the completion no unit holds anything else.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
    ) -> Result<Completion, EngineError> {
        let id = self.group_of(device)?;
        let group = &mut self.groups[id.0];
        if !group.holders.remove(&device) {
            return Err(EngineError::NotAttached(device));
        }
        if let Some(blocked) = &mut group.blocked {
            // Whoever holds it next decides for itself.
            blocked.masters.retain(|master| *master != device);
        }
        if !group.holders.is_empty() {
            pci::clear_bus_master(platform, device);
            return Ok(Completion::none());
        }
        let completion = self.leave(platform, id)?;
        pci::clear_bus_master(platform, device);
        self.go_home(platform, id);
        Ok(completion)
    }

    /// Attaches a group that is attached to nothing.
    pub(super) fn enter(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        if !self.has_iommu() {
            return self.enter_unprotected(platform, id, key);
        }
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoDevice)?;
        let (unit, segment) = (group.unit.ok_or(EngineError::NoDevice)?, group.spec.segment);
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::UnitFailed)?;
        let known = domain.id_at(unit);
        let domain_id = match known {
            Some(domain_id) => domain_id,
            None => hardware.domain_ids().take().ok_or(EngineError::OutOfDomainIds)?,
        };
        let translation =
            Translation { domain: domain_id, table: domain.root(), levels: domain.levels() };
        // What it was attached to before must be forgotten, too, before it can be said to be here.
        let mut completion = group.leaving.clone();
        for (before, source) in group.spec.requesters.iter().enumerate() {
            let device = PciAddress::from_source(segment, *source);
            let record = AttachmentRecord { device, domain: key.0, id: domain_id.get() };
            // Written down first: a device that is attached without a record would be forgotten.
            let slot = self.ledger.insert(platform, &record).map_err(EngineError::from);
            let attached = slot.and_then(|slot| {
                group.slots.push(slot);
                let ticket = hardware.attach(platform, *source, translation);
                ticket.map_err(|_| EngineError::OutOfFrames)
            });
            match attached {
                Ok(ticket) => {
                    if let Some(ticket) = ticket {
                        completion.add(unit, ticket);
                    }
                }
                Err(error) => {
                    let undone = self.undo_enter(platform, id, before, (unit, domain_id));
                    if let Some(domain) = self.domains.get_mut(&key) {
                        // Nor may its tables be freed before, when it is taken apart now (rule R2).
                        domain.held_until(&undone);
                    }
                    if known.is_none() {
                        // What the unit may have cached under the id must be gone before it is another's.
                        let domain_ids = alloc::vec![(unit, domain_id)];
                        let completion = undone;
                        self.retire(
                            platform,
                            Retired { completion, domain_ids, ..Retired::default() },
                        );
                    }
                    return Err(error);
                }
            }
        }
        domain.device_attached(unit, domain_id);
        group.attached = Some(key);
        group.entering = completion.clone();
        Ok(completion)
    }

    /// Attaches a group where there is no IOMMU: it is written down, and changes nothing for its devices.
    fn enter_unprotected(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoDevice)?;
        for device in &group.spec.members {
            let record = AttachmentRecord { device: *device, domain: key.0, id: 0 };
            group.slots.push(self.ledger.insert(platform, &record)?);
        }
        group.attached = Some(key);
        Ok(Completion::none())
    }

    /// Takes back what of a group has been attached, the first so many requesters, when the next could not be.
    /// Until the completion the unit may still use the domain's table, and hold something under its id.
    fn undo_enter(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        attached: usize,
        (unit, domain_id): (UnitId, DomainId),
    ) -> Completion {
        let mut undone = Completion::none();
        let Some(group) = self.groups.get_mut(id.0) else { return undone };
        let Some(hardware) = unit_mut(&mut self.units, unit) else { return undone };
        for source in group.spec.requesters.iter().take(attached) {
            if let Some(ticket) = hardware.detach(platform, *source, domain_id) {
                undone.add(unit, ticket);
            }
        }
        group.slots.drain(..).for_each(|slot| self.ledger.remove(platform, slot));
        group.leaving.join(&undone);
        undone
    }

    /// Detaches a group from whatever it is attached to, if anything.
    pub(super) fn leave(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
    ) -> Result<Completion, EngineError> {
        let has_iommu = self.has_iommu();
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoDevice)?;
        if !has_iommu {
            group.attached = None;
            group.slots.drain(..).for_each(|slot| self.ledger.remove(platform, slot));
            return Ok(Completion::none());
        }
        let unit = group.unit.ok_or(EngineError::NoDevice)?;
        let Some(key) = group.attached else { return Ok(group.leaving.clone()) };
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let domain_id = domain.id_at(unit).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::UnitFailed)?;
        let mut completion = Completion::none();
        for source in &group.spec.requesters {
            if let Some(ticket) = hardware.detach(platform, *source, domain_id) {
                completion.add(unit, ticket);
            }
        }
        domain.device_detached(unit, &completion);
        group.attached = None;
        group.entering = Completion::none();
        group.leaving.join(&completion);
        group.slots.drain(..).for_each(|slot| self.ledger.remove(platform, slot));
        Ok(completion)
    }

    /// Attaches a group that nobody holds to its own domain, if it is to have one. If that cannot be, it reaches
    /// nothing.
    pub(super) fn go_home(&mut self, platform: &mut impl Platform, id: GroupId) {
        let Some(group) = self.groups.get(id.0) else { return };
        if group.blocked.is_some() {
            return;
        }
        let (home, first) = (group.home, group.members().first().copied());
        // What has been plugged in since may need one.
        let Some(key) = home else { return self.make_home(platform, id) };
        if let Err(error) = self.enter(platform, id, key) {
            self.remarks.extend(first.map(|address| Remark::HomeNotMapped { address, error }));
            self.leave_home(platform, id);
        }
    }

    /// Takes a group's own domain away: if it is there, it reaches nothing then.
    pub(super) fn leave_home(&mut self, platform: &mut impl Platform, id: GroupId) {
        let Some(group) = self.groups.get_mut(id.0) else { return };
        let Some(key) = group.home.take() else { return };
        if group.attached == Some(key) {
            // Were it to stay, the domain would, too.
            let _ = self.leave(platform, id);
        }
        self.unconfined.retain(|unconfined| *unconfined != key);
        if let Some(domain) = self.domains.get(&key) {
            // What it reached of memory may be taken for an arena before its unit has forgotten the domain.
            self.keeping.add(domain.identity().collect(), domain.detached().clone());
        }
        // It was for this one group.
        let _ = self.destroy_domain(platform, key);
    }

    /// Whether a domain suits all of a group.
    pub(super) fn check_compatible_group(
        &self,
        id: GroupId,
        key: DomainKey,
    ) -> Result<(), EngineError> {
        let members = self.groups[id.0].members().iter();
        for member in members.filter_map(|member| self.devices.get(member)) {
            // Bridges have no memory, and may be behind another unit.
            if member.function.bridge.is_none() {
                self.check_compatible(member.function.address, key)?;
            }
        }
        Ok(())
    }

    /// Whether the unit in front of a device can walk a domain's table, and the domain holds what firmware
    /// reserves for the device.
    fn check_compatible(&self, device: PciAddress, key: DomainKey) -> Result<(), EngineError> {
        if !self.has_iommu() {
            return Ok(());
        }
        let (_, unit) = self.unit_in_front_of(device)?;
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        unit.abilities()
            .suit(domain.abilities())
            .map_err(|why| EngineError::IncompatibleDomain(device, why))?;
        let reserved = self.devices.get(&device).map_or(&[][..], |device| &device.reserved);
        if domain.admits(device, reserved) {
            Ok(())
        } else {
            Err(EngineError::ReservedNotInDomain(device))
        }
    }
}
