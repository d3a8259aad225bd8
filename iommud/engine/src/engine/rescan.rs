//! Functions that appear while the engine runs: hot-plugged ones.

use dma_types::{PciAddress, SourceId};

use super::{Engine, unit_mut};
use crate::error::EngineError;
use crate::machine::{Device, Group, GroupId, Remark};
use crate::pci::acs;
use crate::platform::Platform;
use crate::records::AttachmentRecord;
use crate::unit::Translation;

impl Engine {
    /// Looks for functions that have appeared since the start, and takes in those that it finds.
    ///
    /// A newcomer reaches nothing, or what its group reaches, with whose members it could be taken for them in any
    /// case. What others are attached to does not change.
    pub fn rescan(&mut self, platform: &mut impl Platform) {
        let mut functions = self.plan.firmware().scan(platform);
        // The known ones, too: a bridge may lead to a bus more, and a port has forgotten if it was without power.
        let stubborn = acs::enable_all(platform, &mut functions);
        let stubborn = stubborn.into_iter().filter(|port| !self.devices.contains_key(port));
        self.remarks.extend(stubborn.map(Remark::NoAccessControl));
        let known = self.plan.findings().len();
        let placed = self.plan.grow(&functions);
        self.remarks.extend(self.plan.findings()[known..].iter().cloned().map(Remark::Found));
        for address in &placed {
            if let Some(planned) = self.plan.devices().get(address) {
                self.devices.insert(*address, Device::from(planned));
            }
        }
        for index in 0..self.plan.groups().len() {
            let planned = &self.plan.groups()[index];
            let Some(group) = self.groups.get_mut(index) else {
                let group = Group::planned(planned);
                self.groups.push(group);
                self.make_home(platform, GroupId(index));
                continue;
            };
            if group.spec != planned.topology {
                let spec = planned.topology.clone();
                let old = core::mem::replace(&mut group.spec, spec).requesters;
                group.unit = planned.unit.unwrap_or_default();
                group.refusal = planned.unit.err();
                self.take_in(platform, GroupId(index), &old, &placed);
            }
        }
        self.follow_arenas(platform);
    }

    /// Attaches what a group has got to where the group is.
    fn take_in(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        old: &[SourceId],
        placed: &[PciAddress],
    ) {
        let Some(group) = self.groups.get(id.0) else { return };
        let newcomer = placed.iter().find(|it| group.members().contains(it)).copied();
        let Some(address) = newcomer else { return };
        if group.attached.is_none() {
            return self.make_home(platform, id);
        }
        if let Err(error) = self.attach_newcomers(platform, id, old, placed) {
            self.remarks.push(Remark::NewcomerNotAttached { address, error });
        }
    }

    fn attach_newcomers(
        &mut self,
        platform: &mut impl Platform,
        id: GroupId,
        old: &[SourceId],
        placed: &[PciAddress],
    ) -> Result<(), EngineError> {
        let group = self.groups.get_mut(id.0).ok_or(EngineError::NoDevice)?;
        let (unit, key) = group.unit.zip(group.attached).ok_or(EngineError::NoDevice)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let domain_id = domain.id_at(unit).ok_or(EngineError::NoSuchDomain(key))?;
        let hardware = unit_mut(&mut self.units, unit).ok_or(EngineError::UnitFailed)?;
        let newcomers = placed.iter().filter(|it| group.spec.members.contains(it));
        for device in newcomers.filter_map(|it| self.devices.get(it)) {
            for range in &device.reserved {
                let changed = domain.map_firmware_range(platform, *range)?;
                if let Some(ticket) = hardware.mapped(platform, domain_id, changed) {
                    group.entering.add(unit, ticket);
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
        Ok(())
    }
}
