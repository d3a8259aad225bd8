//! Functions that appear while the engine runs: hot-plugged ones.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use super::Engine;
use super::units::{silence_unusable, unit_mut};
use crate::error::EngineError;
use crate::machine::{Device, Group, GroupId, Remark};
use crate::pci;
use crate::platform::Platform;
use crate::records::AttachmentRecord;
use crate::unit::Translation;

impl Engine {
    /// Looks for functions that have appeared since the start, or taken the place of others, and takes in those that
    /// it finds.
    ///
    /// A newcomer reaches nothing, or what its group reaches, with whose members it could be taken for them in any
    /// case. What others are attached to does not change; what a group reaches while nobody holds it is decided
    /// anew.
    pub fn rescan(&mut self, platform: &mut impl Platform) {
        // The known ones, too: a bridge may lead to a bus more, and a port has forgotten if it was without power.
        let (functions, stubborn) = self.plan.firmware().scan_enabling(platform);
        let stubborn = stubborn.into_iter().filter(|port| !self.devices.contains_key(port));
        self.remarks.extend(stubborn.map(Remark::NoAccessControl));
        let known = self.plan.findings().len();
        self.plan.grow(&functions);
        self.remarks.extend(self.plan.findings()[known..].iter().cloned().map(Remark::Found));
        let mut newcomers = Vec::new();
        for (address, planned) in self.plan.devices() {
            if self.devices.get(address).is_none_or(|known| known.function != planned.function) {
                newcomers.push(*address);
                self.devices.insert(*address, Device::from(planned));
            }
        }
        silence_unusable(platform, &self.units, &self.devices);
        for index in 0..self.plan.groups().len() {
            let planned = &self.plan.groups()[index];
            let id = GroupId(index);
            if self.groups.get(index).is_none() {
                let group = Group::planned(planned);
                self.groups.push(group);
                self.make_home(platform, id);
                continue;
            }
            let mut members = planned.topology.members.iter();
            let Some(address) = members.find(|it| newcomers.contains(it)).copied() else {
                continue;
            };
            let spec = planned.topology.clone();
            let (unit, refusal) = (planned.unit.unwrap_or_default(), planned.unit.err());
            // Its home is to be another, and what it had attached there is to be detached.
            self.leave_home(platform, id);
            let Some(group) = self.groups.get_mut(index) else { continue };
            let old = core::mem::replace(&mut group.spec, spec).requesters;
            (group.unit, group.refusal) = (unit, refusal);
            if group.unit.is_none() || !group.is_held() {
                self.make_home(platform, id);
                continue;
            }
            if let Err(error) = self.attach_newcomers(platform, id, &old, &newcomers) {
                self.remarks.push(Remark::NewcomerNotAttached { address, error });
            }
        }
        self.follow_arenas(platform);
    }

    /// Whether the function at an address is the one that was last found there, or has gone.
    pub fn is_known(&self, platform: &mut impl Platform, address: PciAddress) -> bool {
        let Some(known) = self.devices.get(&address).map(|device| device.function) else {
            return false;
        };
        let now = pci::function(platform, address);
        now.is_none_or(|now| (now.vendor, now.device) == (known.vendor, known.device))
    }

    fn attach_newcomers(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        old: &[SourceId],
        newcomers: &[PciAddress],
    ) -> Result<(), EngineError> {
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoDevice)?;
        let (unit, key) = group.unit.zip(group.attached).ok_or(EngineError::NoDevice)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let domain_id = domain.id_at(unit).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::UnitFailed)?;
        let root = domain.root();
        let newcomers = newcomers.iter().filter(|it| group.spec.members.contains(it));
        for device in newcomers.filter_map(|it| self.devices.get(it)) {
            let missing = device.reserved.iter().flat_map(|range| domain.missing_of(*range));
            for range in missing.collect::<Vec<_>>() {
                let changed = domain.map_firmware_range(platform, range)?;
                if !hardware.sees_by_itself() {
                    group.entering.add(unit, hardware.mapped(platform, domain_id, changed));
                }
            }
            domain.admit(device.function.address);
        }
        let translation =
            Translation { domain: domain_id, table: domain.root(), levels: domain.levels() };
        for source in group.spec.requesters.iter().filter(|source| !old.contains(source)) {
            let device = PciAddress::from_source(group.spec.segment, *source);
            let record = AttachmentRecord { device, domain: key.0, id: domain_id.get() };
            group.slots.push(self.ledger.insert(platform, &record)?);
            let ticket = hardware.attach(platform, *source, translation);
            if let Some(ticket) = ticket.map_err(|_| EngineError::OutOfFrames)? {
                group.entering.add(unit, ticket);
            }
        }
        // What is reserved may lie beyond what the table reached.
        self.tables_changed(platform, key, root);
        Ok(())
    }
}
