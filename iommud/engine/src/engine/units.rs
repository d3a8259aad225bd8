//! Units: which is in front of a device, whether it works, and how its promises stand.

use alloc::collections::BTreeMap;

use dma_types::PciAddress;

use super::Engine;
use super::deferred::Deferred;
use crate::completion::{Completion, Progress, Promiser, Ticket, UnitId};
use crate::error::EngineError;
use crate::machine::{Device, GroupId, UnitSlot};
use crate::pci;
use crate::platform::Platform;
use crate::unit::{Unit, UnitState, Unusable};

impl Engine {
    /// How a completion stands. It does not change before the next [poll](Self::poll).
    #[inline]
    pub fn progress(&self, completion: &Completion) -> Progress {
        if completion.is_none() {
            return Progress::Done;
        }
        progress(&self.units, &self.deferred, completion)
    }

    /// Forgets what is confirmed of a completion that is kept for long.
    pub fn forget_confirmed(&self, completion: &mut Completion) {
        completion.retain(|part| self.progress(part) != Progress::Done);
    }

    pub(super) fn group_of(&self, device: PciAddress) -> Result<GroupId, EngineError> {
        Ok(self.devices.get(&device).ok_or(EngineError::NoSuchDevice(device))?.group)
    }

    pub(super) fn unit_in_front_of(
        &self,
        address: PciAddress,
    ) -> Result<(UnitId, &Unit), EngineError> {
        let group = &self.groups[self.group_of(address)?.0];
        if let Some(fault) = group.refusal {
            return Err(EngineError::GroupRefused(address, fault));
        }
        let id = group.unit.ok_or(EngineError::NotCovered(address))?;
        match unit_at(&self.units, id) {
            Some(unit) if !unit.has_failed() => Ok((id, unit)),
            _ => Err(EngineError::UnitNotWorking(address)),
        }
    }

    /// Refuses a device that cannot be attached now: the unit in front of it does not translate, or nobody opens
    /// such as it is.
    pub(super) fn check_usable(&self, address: PciAddress) -> Result<(), EngineError> {
        if self.has_iommu() {
            return self.translating_unit(address).map(drop);
        }
        match self.devices.get(&address) {
            None => Err(EngineError::NoSuchDevice(address)),
            Some(device) if device.is_infrastructure() => Err(EngineError::NotCovered(address)),
            Some(_) => Ok(()),
        }
    }

    /// The unit in front of a device, if it translates.
    fn translating_unit(&self, address: PciAddress) -> Result<&Unit, EngineError> {
        let (_, unit) = self.unit_in_front_of(address)?;
        match unit.state() {
            UnitState::Running => Ok(unit),
            UnitState::Starting(_) | UnitState::Failed(_) => {
                Err(EngineError::UnitStarting(address))
            }
        }
    }

    #[inline]
    pub(super) fn running_units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter_map(|slot| slot.unit.as_ref().ok())
    }
}

/// Has no device behind a unit master the bus any more. Bridges go on: what is behind them may be behind another unit; and so do
/// functions of units, which say by messages what they deny.
pub(super) fn silence(
    platform: &mut impl Platform,
    devices: &BTreeMap<PciAddress, Device>,
    unit: UnitId,
) {
    let behind = |device: &&Device| device.unit == Some(unit) && !device.is_infrastructure();
    for device in devices.values().filter(behind) {
        pci::clear_bus_master(platform, device.function.address);
    }
}

/// Does so behind each unit that cannot be used, which denies nothing (rule R1). What the policy leaves alone stays as it is.
pub(super) fn silence_unusable(
    platform: &mut impl Platform,
    units: &[UnitSlot],
    devices: &BTreeMap<PciAddress, Device>,
) {
    for (index, slot) in units.iter().enumerate() {
        if matches!(&slot.unit, Err(unusable) if !matches!(unusable, Unusable::Ignored(_))) {
            silence(platform, devices, UnitId(index as u16));
        }
    }
}

#[inline]
pub(super) fn unit_at(units: &[UnitSlot], id: UnitId) -> Option<&Unit> {
    units.get(usize::from(id.0)).and_then(|slot| slot.unit.as_ref().ok())
}

#[inline]
pub(super) fn unit_mut(units: &mut [UnitSlot], id: UnitId) -> Option<&mut Unit> {
    units.get_mut(usize::from(id.0)).and_then(|slot| slot.unit.as_mut().ok())
}

#[inline]
pub(super) fn has_failed(units: &[UnitSlot], id: UnitId) -> bool {
    unit_at(units, id).is_none_or(|unit| unit.has_failed())
}

/// How a completion stands, its batches of unmaps included.
#[inline]
pub(super) fn progress(
    units: &[UnitSlot],
    deferred: &Deferred,
    completion: &Completion,
) -> Progress {
    let of_one = |(promiser, ticket)| match promiser {
        Promiser::Unit(unit) => unit_progress(units, unit, ticket),
        Promiser::Batches(_) => {
            deferred.progress(ticket, |completion| units_progress(units, completion))
        }
    };
    let (first, more) = completion.parts();
    let first = first.map_or(Progress::Done, of_one);
    more.iter().fold(first, |all, promise| all.and(of_one(*promise)))
}

/// How what units have promised stands.
#[inline]
pub(super) fn units_progress(units: &[UnitSlot], completion: &Completion) -> Progress {
    let tickets = completion.tickets();
    tickets.fold(Progress::Done, |all, (unit, ticket)| all.and(unit_progress(units, unit, ticket)))
}

#[inline]
pub(super) fn unit_progress(units: &[UnitSlot], unit: UnitId, ticket: Ticket) -> Progress {
    match unit_at(units, unit) {
        Some(unit) if unit.confirmed() >= ticket => Progress::Done,
        Some(unit) if !unit.has_failed() => Progress::Pending,
        Some(_) | None => Progress::Failed,
    }
}
