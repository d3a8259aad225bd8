//! Functions that appear later.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::PciAddress;

use super::finding::{NewcomerFault, Oddity};
use super::group::{self, PlannedGroup};
use super::{Plan, PlannedDevice};
use crate::machine::reserved::merged;
use crate::pci::Function;
use crate::topology;

impl Plan {
    /// Takes in functions that have appeared, and returns those that it has placed.
    ///
    /// `functions` are all that a later [scan](super::Firmware::scan) finds, those that are known included: a bridge
    /// that is known may lead to a bus that is not. As at the start, their Access Control Services count as
    /// enabled, so that they must [be](crate::pci::acs::enable_all) before anything is attached; a port that
    /// has lost its power in between has lost them too.
    ///
    /// A function behind a bridge that a unit's scope names is behind that unit, whatever bus it is on. What
    /// was planned stays: no device changes its unit or its group, and no group its place. A group may get
    /// new members, requesters and reserved memory, which whoever has attached it must then attach and map too; its
    /// newcomer could reach what the others do in any case. Where that would join groups that are apart, or
    /// put a device into the group of another unit, the newcomer is not placed: nothing attaches it, and
    /// a finding says why. Functions that are gone stay where they were, for others may come in their place.
    pub fn grow(&mut self, functions: &BTreeMap<PciAddress, Function>) -> Vec<PciAddress> {
        let mut all: BTreeMap<_, _> =
            self.devices.iter().map(|(address, device)| (*address, device.function)).collect();
        all.extend(functions.iter().map(|(address, function)| (*address, *function)));
        let topology = self.topology(&all);
        let mut placed = Vec::new();
        for group in topology.groups() {
            let changed = group.members.iter().filter(|member| {
                self.devices.get(member).map(|device| &device.function) != all.get(member)
            });
            let changed: Vec<_> = changed.copied().collect();
            if changed.is_empty() {
                continue;
            }
            let here = group.members.iter().filter_map(|member| self.devices.get(member));
            let known: BTreeSet<_> = here.map(|device| device.group).collect();
            let mut known = known.into_iter();
            let place = match (known.next(), known.next()) {
                (Some(one), Some(other)) => {
                    let fault =
                        NewcomerFault::JoinsGroups(self.first_of(one), self.first_of(other));
                    self.turn_away(&changed, fault);
                    continue;
                }
                (Some(place), None) => place,
                (None, _) => self.groups.len(),
            };
            let devices: Vec<_> = changed
                .iter()
                .filter_map(|address| all.get(address))
                .map(|function| self.device(function, &all, &topology, place))
                .collect();
            let grown = match self.groups.get(place) {
                None => Ok(PlannedGroup {
                    topology: group.clone(),
                    unit: group::common_unit(&devices.iter().collect::<Vec<_>>()),
                    reserved: Vec::new(),
                }),
                Some(old) => self.grown(old, group, &devices),
            };
            let mut grown = match grown {
                Ok(grown) => grown,
                Err(fault) => {
                    self.turn_away(&changed, fault);
                    continue;
                }
            };
            let reserved = devices.iter().flat_map(|device| device.reserved.iter().copied());
            grown.reserved = merged(grown.reserved.iter().copied().chain(reserved).collect());
            if let (Err(fault), Some(first)) = (grown.unit, grown.topology.members.first()) {
                self.find(None, Oddity::Group { first: *first, fault });
            }
            match self.groups.get_mut(place) {
                Some(old) => *old = grown,
                None => self.groups.push(grown),
            }
            for device in devices {
                let address = device.function.address;
                match self.devices.get_mut(&address) {
                    // Another in an old place: it is where that was.
                    Some(old) => {
                        let unit = old.unit;
                        *old = PlannedDevice { unit, ..device };
                    }
                    None => {
                        self.devices.insert(address, device);
                        placed.push(address);
                    }
                }
            }
        }
        placed.sort_unstable();
        placed
    }

    /// A group with more members.
    fn grown(
        &self,
        old: &PlannedGroup,
        now: &topology::Group,
        newcomers: &[PlannedDevice],
    ) -> Result<PlannedGroup, NewcomerFault> {
        let members = old.topology.members.iter().filter_map(|member| self.devices.get(member));
        let mut endpoints = members.filter(|device| device.is_endpoint());
        let unit = match (old.unit, endpoints.next()) {
            (Err(fault), _) => Err(fault),
            (Ok(_), None) => group::common_unit(&newcomers.iter().collect::<Vec<_>>()),
            (Ok(unit), Some(endpoint)) => {
                let mut newcomers = newcomers.iter().filter(|device| device.is_endpoint());
                if newcomers.any(|newcomer| newcomer.unit != unit) {
                    return Err(NewcomerFault::OtherUnit(endpoint.function.address));
                }
                Ok(unit)
            }
        };
        let mut topology = old.topology.clone();
        topology.members.extend(&now.members);
        topology.members.sort_unstable();
        topology.members.dedup();
        topology.requesters.extend(&now.requesters);
        topology.requesters.sort_unstable();
        topology.requesters.dedup();
        for reason in &now.reasons {
            if !topology.reasons.contains(reason) {
                topology.reasons.push(reason.clone());
            }
        }
        Ok(PlannedGroup { topology, unit, reserved: old.reserved.clone() })
    }

    fn first_of(&self, group: usize) -> PciAddress {
        let first = self.groups.get(group).and_then(|group| group.topology.members.first());
        first.copied().unwrap_or_default()
    }

    fn turn_away(&mut self, newcomers: &[PciAddress], fault: NewcomerFault) {
        for function in newcomers {
            self.find(None, Oddity::Newcomer { function: *function, fault });
        }
    }
}
