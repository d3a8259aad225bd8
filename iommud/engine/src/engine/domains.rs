//! Domains, from their making to their end.

use alloc::vec::Vec;

use dma_types::PciAddress;

use super::Engine;
use crate::domain::{Domain, DomainKey, DomainTable};
use crate::error::EngineError;
use crate::iova::IovaRange;
use crate::machine::{Device, ReservedRange, merged};
use crate::pci::Function;
use crate::platform::Platform;
use crate::policy::{DevicePolicy, Invalidation};
use crate::records::Purpose;
use crate::retired::Retired;
use crate::unit::Abilities;

impl Engine {
    /// Makes a domain that the units in front of all these devices can walk, which must be one at least. It is
    /// empty but for the ranges that firmware reserves for them and for the others of their groups.
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
            self.check_usable(*device)?;
        }
        let key = self.create_domain_for(platform, devices, None, Purpose::Own)?;
        self.follow_arenas(platform);
        Ok(key)
    }

    /// The same with an aperture of addresses, beyond which nothing is mapped but what firmware reserves; without one,
    /// with all addresses that there are. Nothing unmapped in it is gathered, whatever the policy says, so that an
    /// address can be chosen again as soon as an unmap there is answered.
    ///
    /// # Errors
    ///
    /// Besides, [`EngineError::NoIommu`] where devices are in no domain at all, and [`EngineError::Iova`] for an aperture
    /// that the units do not translate.
    pub fn create_explicit_domain(
        &mut self,
        platform: &mut impl Platform,
        devices: &[PciAddress],
        aperture: Option<IovaRange>,
    ) -> Result<DomainKey, EngineError> {
        if !self.has_iommu() {
            return Err(EngineError::NoIommu);
        }
        for device in devices {
            self.check_usable(*device)?;
        }
        let key = self.create_domain_for(platform, devices, Some(aperture), Purpose::Explicit)?;
        self.follow_arenas(platform);
        Ok(key)
    }

    /// Makes a domain, also while the units are still starting; an explicit one if an aperture is said, or that it has
    /// none.
    pub(super) fn create_domain_for(
        &mut self,
        platform: &mut impl Platform,
        devices: &[PciAddress],
        explicit: Option<Option<IovaRange>>,
        purpose: Purpose,
    ) -> Result<DomainKey, EngineError> {
        let abilities = self.common_abilities(devices)?;
        let everywhere: Vec<_> = self.plan.reserved().map(ReservedRange::as_iova_range).collect();
        let key = DomainKey(self.next_domain);
        let groups = devices.iter().filter_map(|device| self.group(*device));
        let members: Vec<_> = groups.flat_map(|group| group.members().iter().copied()).collect();
        let aperture = explicit.flatten();
        let mut frames = self.books.meter(platform, 0);
        let domain = Domain::new(&mut frames, &members, abilities, aperture, everywhere);
        let mut domain = domain.map_err(|error| frames.bill.error(error))?;
        // Without an IOMMU nobody is to be told, and an address that is kept out of use is memory that cannot be mapped.
        let may_defer = self.has_iommu() && explicit.is_none();
        if may_defer && members.iter().all(|member| self.is_deferred(*member)) {
            domain.defer_invalidation();
        }
        let own = members.iter().filter_map(|device| self.devices.get(device));
        let own: Vec<_> = own.flat_map(|device| device.reserved.iter().copied()).collect();
        let own = merged(own);
        domain.set_purpose(match explicit {
            Some(_) => Purpose::Explicit,
            None => purpose,
        });
        let record = domain.record(key);
        let made = own
            .iter()
            .try_for_each(|range| domain.map_firmware_range(&mut frames, *range).map(drop))
            .map_err(|error| frames.bill.error(error));
        let taken = core::mem::take(&mut frames.bill.taken);
        let made = made.and_then(|()| Ok(self.ledger.insert(platform, &record)?));
        match made {
            Ok(slot) => domain.set_slot(slot),
            Err(error) => {
                // No unit has seen any of it.
                let frames = domain.destroy(platform).frames;
                frames.into_iter().for_each(|(frame, _)| platform.free_frame(frame));
                return Err(error);
            }
        }
        self.books.take_tables(&mut domain, &taken);
        domain.set_client(self.books.purse.client);
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
        if domain.devices() > 0 || self.groups.iter().any(|group| group.attached == Some(key)) {
            return Err(EngineError::DomainInUse(key));
        }
        // Afterwards nobody would know which units to tell of what was gathered.
        self.tell_of(platform, key);
        let Some(domain) = self.domains.remove(&key) else { return Ok(()) };
        if let Some(slot) = domain.slot() {
            self.ledger.remove(platform, slot);
        }
        let domain_ids = domain.memberships().collect();
        let retired = domain.destroy(platform);
        self.retire(platform, Retired { domain_ids, ..retired });
        Ok(())
    }

    /// Whether a function does not stand in the way of deferred invalidation: the policy allows it, or it is a
    /// bridge, which has nothing unmapped.
    fn is_deferred(&self, address: PciAddress) -> bool {
        self.devices.get(&address).is_some_and(|device| {
            device.function.bridge.is_some()
                || self.policy_for(device).invalidation == Invalidation::Deferred
        })
    }

    /// What the administrator decided for a device.
    pub fn policy_for(&self, device: &Device) -> DevicePolicy {
        let Function { address, vendor, device, .. } = device.function;
        self.policy.for_device(address, vendor, device)
    }

    /// What all the units in front of these devices can do, as far as a table will ask for it.
    fn common_abilities(&self, devices: &[PciAddress]) -> Result<Abilities, EngineError> {
        let (first, rest) = devices.split_first().ok_or(EngineError::NoDevice)?;
        if !self.has_iommu() {
            return Ok(Abilities::NONE);
        }
        let mut common = self.unit_in_front_of(*first)?.1.abilities();
        for device in rest {
            let (_, unit) = self.unit_in_front_of(*device)?;
            common = common
                .and(&unit.abilities())
                .map_err(|why| EngineError::IncompatibleDomain(*device, why))?;
        }
        DomainTable::narrow(&common).map_err(|why| EngineError::IncompatibleDomain(*first, why))
    }
}
