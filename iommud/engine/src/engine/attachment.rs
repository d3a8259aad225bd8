//! Domains, and devices in and out of them.

use alloc::vec::Vec;

use dma_types::PciAddress;

use super::{Engine, unit_mut};
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey, DomainTable};
use crate::error::EngineError;
use crate::machine::{Remark, merged};
use crate::pci;
use crate::platform::Platform;
use crate::records::{AttachmentRecord, DomainRecord};
use crate::retired::Retired;
use crate::unit::{Abilities, Translation};

impl Engine {
    /// Makes a domain that the units in front of all these devices can walk, which must be one at least. It is
    /// empty but for the ranges that firmware reserves for them.
    ///
    /// # Errors
    ///
    /// [`EngineError::IncompatibleDomain`] if no table suits them all.
    pub fn create_domain(
        &mut self,
        platform: &mut impl Platform,
        devices: &[PciAddress],
    ) -> Result<DomainKey, EngineError> {
        for device in devices {
            self.translating_unit(*device)?;
        }
        self.create_domain_for(platform, devices)
    }

    /// Makes a domain, also while the units are still starting.
    pub(super) fn create_domain_for(
        &mut self,
        platform: &mut impl Platform,
        devices: &[PciAddress],
    ) -> Result<DomainKey, EngineError> {
        let abilities = self.common_abilities(devices)?;
        let everywhere: Vec<_> = self
            .devices
            .values()
            .flat_map(|device| device.reserved.iter().map(|range| range.as_iova_range()))
            .collect();
        let key = DomainKey(self.next_domain);
        let mut domain = Domain::new(platform, devices, abilities, everywhere)?;
        let own = devices.iter().filter_map(|device| self.devices.get(device));
        let own: Vec<_> = own.flat_map(|device| device.reserved.iter().copied()).collect();
        let own = merged(own);
        let record = DomainRecord { key: key.0, root: domain.root(), levels: domain.levels() };
        let made = own
            .iter()
            .try_for_each(|range| domain.map_firmware_range(platform, range.start, range.bytes))
            .and_then(|()| Ok(self.ledger.insert(platform, &record)?));
        match made {
            Ok(slot) => domain.set_slot(slot),
            Err(error) => {
                // No unit has seen any of it.
                let mut frames = Vec::new();
                domain.destroy(platform, &mut frames);
                frames.into_iter().for_each(|frame| platform.free_frame(frame));
                return Err(error);
            }
        }
        self.next_domain += 1;
        self.domains.insert(key, domain);
        Ok(key)
    }

    /// Takes a domain apart to which no device is attached any more.
    pub fn destroy_domain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
    ) -> Result<(), EngineError> {
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.devices() > 0 {
            return Err(EngineError::DomainInUse(key));
        }
        let Some(domain) = self.domains.remove(&key) else { return Ok(()) };
        if let Some(slot) = domain.slot() {
            self.ledger.remove(platform, slot);
        }
        let domain_ids = domain.memberships().collect();
        let mut frames = Vec::new();
        let completion = domain.destroy(platform, &mut frames);
        self.retire(platform, Retired { completion, frames, domain_ids, ..Retired::default() });
        Ok(())
    }

    /// Attaches a device to a domain: from the completion on at the latest, it reaches what is mapped
    /// there.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let state = self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?;
        let firmware = state.firmware_domain;
        if state.attached != firmware {
            return Err(EngineError::AlreadyAttached(device));
        }
        self.translating_unit(device)?;
        self.check_compatible(device, key)?;
        if firmware.is_some() {
            self.detach_from_current(platform, device)?;
        }
        match self.attach_to(platform, device, key) {
            Ok(completion) => Ok(completion),
            Err(error) => {
                self.reattach_firmware(platform, device);
                Err(error)
            }
        }
    }

    /// Detaches a device from its domain: it reaches what firmware reserves for it, or nothing, and after
    /// the completion no unit holds anything else.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
    ) -> Result<Completion, EngineError> {
        let state = self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?;
        if state.attached.is_none() || state.attached == state.firmware_domain {
            return Err(EngineError::NotAttached(device));
        }
        let completion = self.detach_from_current(platform, device)?;
        pci::clear_bus_master(platform, device);
        self.reattach_firmware(platform, device);
        Ok(completion)
    }

    /// Attaches a device that is attached to nothing.
    pub(super) fn attach_to(
        &mut self,
        platform: &mut impl Platform,
        address: PciAddress,
        key: DomainKey,
    ) -> Result<Completion, EngineError> {
        let (unit, _) = self.unit_in_front_of(address)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::NotCovered(address))?;
        let known = domain.id_at(unit);
        let id = match known {
            Some(id) => id,
            None => hardware.domain_ids().take().ok_or(EngineError::OutOfDomainIds)?,
        };
        let record = AttachmentRecord { device: address, domain: key.0, id: id.get() };
        let translation = Translation { domain: id, table: domain.root(), levels: domain.levels() };
        // Written down first: a device that is attached without a record would be forgotten.
        let attached =
            self.ledger.insert(platform, &record).map_err(EngineError::from).and_then(|slot| {
                match hardware.attach(platform, address.source(), translation) {
                    Ok(ticket) => Ok((slot, ticket)),
                    Err(_) => {
                        self.ledger.remove(platform, slot);
                        Err(EngineError::OutOfFrames)
                    }
                }
            });
        let (slot, ticket) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                if known.is_none() {
                    hardware.domain_ids().give_back(id);
                }
                return Err(error);
            }
        };
        domain.device_attached(unit, id);
        let mut leaving = Completion::none();
        if let Some(device) = self.devices.get_mut(&address) {
            device.attached = Some(key);
            device.slot = Some(slot);
            leaving = device.leaving.clone();
        }
        // What it was attached to before must be forgotten, too, before it can be said to be here.
        let mut completion = leaving;
        if let Some(ticket) = ticket {
            completion.add(unit, ticket);
        }
        Ok(completion)
    }

    /// Detaches a device from whatever it is attached to.
    fn detach_from_current(
        &mut self,
        platform: &mut impl Platform,
        address: PciAddress,
    ) -> Result<Completion, EngineError> {
        let device = self.devices.get_mut(&address).ok_or(EngineError::NoSuchDevice(address))?;
        let unit = device.unit.ok_or(EngineError::NotCovered(address))?;
        let key = device.attached.ok_or(EngineError::NotAttached(address))?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let id = domain.id_at(unit).ok_or(EngineError::NotAttached(address))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::NotCovered(address))?;
        let completion = hardware
            .detach(platform, address.source(), id)
            .map_or_else(Completion::none, |ticket| Completion::one(unit, ticket));
        domain.device_detached(unit, &completion);
        device.attached = None;
        device.leaving.join(&completion);
        if let Some(slot) = device.slot.take() {
            self.ledger.remove(platform, slot);
        }
        Ok(completion)
    }

    /// Gives a device back what firmware reserves for it. If that cannot be, it reaches nothing.
    fn reattach_firmware(&mut self, platform: &mut impl Platform, address: PciAddress) {
        let Some(key) = self.devices.get(&address).and_then(|device| device.firmware_domain) else {
            return;
        };
        if let Err(error) = self.attach_to(platform, address, key) {
            self.remarks.push(Remark::ReservedNotMapped { address, error });
            if let Some(device) = self.devices.get_mut(&address) {
                device.firmware_domain = None;
            }
            // Nothing is attached to it any more, for it had this one device.
            let _ = self.destroy_domain(platform, key);
        }
    }

    /// What all the units in front of these devices can do, as far as a table will ask for it.
    fn common_abilities(&self, devices: &[PciAddress]) -> Result<Abilities, EngineError> {
        let (first, rest) = devices.split_first().ok_or(EngineError::NoDevice)?;
        let mut common = self.unit_in_front_of(*first)?.1.abilities();
        for device in rest {
            let (_, unit) = self.unit_in_front_of(*device)?;
            common = common
                .and(&unit.abilities())
                .map_err(|why| EngineError::IncompatibleDomain(*device, why))?;
        }
        DomainTable::narrow(&common).map_err(|why| EngineError::IncompatibleDomain(*first, why))
    }

    /// Whether the unit in front of a device can walk a domain's table, and the domain holds what firmware
    /// reserves for the device.
    fn check_compatible(&self, device: PciAddress, key: DomainKey) -> Result<(), EngineError> {
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
