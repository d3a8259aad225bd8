//! Devices that are kept from everything, whoever holds them, and devices whose faults are not recorded.
//!
//! # Blocked
//!
//! A blocked group is in no domain: no entry of its unit's tables lets it reach anything, not even what firmware reserves
//! for it. None of its functions masters the bus, and its faults are not recorded, for it may be made to master the bus
//! by whoever reaches its configuration space. Its holders keep their domains and what is mapped there, which
//! nothing reaches through it.
//!
//! # Silent
//!
//! A unit goes on recording what a wild device is denied as fast as that asks, and drops what other devices are denied when
//! there is no room. So it can be told to record nothing of one requester: VT-d by FPD in its context entry (9.3: it
//! counts whether the entry is present or not, for faults that 7.1.3 calls qualified), AMD-Vi by SA in its device table
//! entry (2.2.2.1, table 7: bit 98, for I/O page faults). What it denies stays denied.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use super::Engine;
use super::adopt::BlockedDevice;
use super::units::unit_mut;
use crate::completion::{Completion, UnitId};
use crate::domain::DomainKey;
use crate::error::EngineError;
use crate::machine::{Blocked, Device, Group, GroupId};
use crate::pci;
use crate::platform::Platform;

impl Engine {
    /// Blocks a device and the others of its group. After the completion no unit holds anything of what they reached before.
    ///
    /// # Errors
    ///
    /// [`EngineError::Blocked`] if it is so already, [`EngineError::NoIommu`], [`EngineError::NoSuchDevice`],
    /// [`EngineError::NotCovered`].
    pub fn block(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
    ) -> Result<Completion, EngineError> {
        let id = self.group_of(device)?;
        if !self.has_iommu() {
            return Err(EngineError::NoIommu);
        }
        let group = self.groups.get(id.0).ok_or(EngineError::NoSuchDevice(device))?;
        if group.blocked.is_some() {
            return Err(EngineError::Blocked(device));
        }
        group.unit.ok_or(EngineError::NotCovered(device))?;
        let members = group.members().to_vec();
        let completion = self.leave(platform, id)?;
        let mut masters = members;
        masters.retain(|member| {
            self.masters(platform, *member) && pci::clear_bus_master(platform, *member)
        });
        if let Some(group) = self.groups.get_mut(id.0) {
            group.blocked = Some(Blocked { masters });
        }
        self.silence_group(platform, id, true);
        Ok(completion)
    }

    /// Ends that: the group goes into this domain, or where it is while nobody holds it, and those of its functions master
    /// the bus again that did, but for devices that were detached since. From the completion on it reaches what is mapped
    /// there.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotBlocked`], and why the unit or the domain cannot be used. It stays blocked then.
    pub fn unblock(
        &mut self,
        platform: &mut impl Platform,
        device: PciAddress,
        key: Option<DomainKey>,
    ) -> Result<Completion, EngineError> {
        let id = self.group_of(device)?;
        if self.groups.get(id.0).is_none_or(|group| group.blocked.is_none()) {
            return Err(EngineError::NotBlocked(device));
        }
        self.check_usable(device)?;
        self.silence_group(platform, id, false);
        let completion = match key {
            None => Ok(Completion::none()),
            Some(key) => {
                self.check_compatible_group(id, key).and_then(|()| self.enter(platform, id, key))
            }
        };
        let completion = completion.inspect_err(|_| self.silence_group(platform, id, true))?;
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoSuchDevice(device))?;
        let Blocked { masters } = group.blocked.take().unwrap_or_default();
        if key.is_none() {
            self.go_home(platform, id);
        }
        masters.into_iter().for_each(|member| pci::set_bus_master(platform, member));
        self.follow_arenas(platform);
        Ok(completion)
    }

    /// Blocks what a predecessor had blocked, before it could reach anything.
    pub(super) fn block_again(&mut self, platform: &mut impl Platform, devices: &[BlockedDevice]) {
        for BlockedDevice { device, was_master } in devices {
            let Ok(id) = self.group_of(*device) else { continue };
            let Some(group) = self.groups.get_mut(id.0).filter(|it| it.unit.is_some()) else {
                continue;
            };
            let masters = &mut group.blocked.get_or_insert_default().masters;
            if *was_master {
                masters.push(*device);
            }
            // It died before it had taken everything away, say; units forget it all before they are up.
            let _ = self.leave(platform, id);
            if self.masters(platform, *device) {
                pci::clear_bus_master(platform, *device);
            }
            self.silence_group(platform, id, true);
        }
    }

    /// Whether a device is blocked.
    pub fn is_blocked(&self, device: PciAddress) -> bool {
        self.group(device).is_some_and(|group| group.blocked.is_some())
    }

    /// Whether a device would be kept from mastering the bus if it were blocked now.
    pub fn masters(&self, platform: &mut impl Platform, device: PciAddress) -> bool {
        // What is behind a bridge is another's, if it is not of its group.
        let known = self.devices.get(&device);
        known.is_some_and(|it| it.function.bridge.is_none()) && pci::is_bus_master(platform, device)
    }

    /// Has a unit record nothing more of what a requester is denied, or again everything. Attaching it to a domain, or
    /// detaching it, ends its silence. That of a blocked group does not end before it is unblocked.
    pub fn silence(
        &mut self,
        platform: &mut impl Platform,
        unit: UnitId,
        source: SourceId,
        silent: bool,
    ) {
        let of_it =
            |group: &&Group| group.unit == Some(unit) && group.spec.requesters.contains(&source);
        let blocked = self.groups.iter().find(of_it).is_some_and(|it| it.blocked.is_some());
        if blocked && !silent {
            return;
        }
        if let Some(hardware) = unit_mut(&mut self.units, unit) {
            // Nothing waits for it: what is recorded until then is told.
            let _ = hardware.silence(platform, source, silent);
        }
    }

    /// The devices whose requests carry this source-id by themselves, or else those of the groups in which some may.
    pub fn signers(&self, segment: u16, source: SourceId) -> Vec<&Device> {
        let here = self.devices.values().filter(|it| it.function.address.segment() == segment);
        let in_group = |device: &&Device| {
            let group = self.groups.get(device.group.0);
            group.is_some_and(|group| group.spec.requesters.contains(&source))
        };
        let (own, others): (Vec<_>, Vec<_>) =
            here.filter(in_group).partition(|device| device.requesters.contains(&source));
        if own.is_empty() { others } else { own }
    }

    fn silence_group(&mut self, platform: &mut impl Platform, id: GroupId, silent: bool) {
        let Some(group) = self.groups.get(id.0) else { return };
        let Some(unit) = group.unit else { return };
        let Some(hardware) = unit_mut(&mut self.units, unit) else { return };
        for source in &group.spec.requesters {
            let _ = hardware.silence(platform, *source, silent);
        }
    }
}
