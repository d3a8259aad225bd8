//! Groups in the making.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use super::sets::Sets;
use super::{Group, Reason, Topology};
use crate::pci::Function;

/// Functions that are being put into groups.
pub(super) struct Maker {
    numbers: BTreeMap<PciAddress, usize>,
    sets: Sets,
    reasons: Vec<(PciAddress, Reason)>,
    /// For each id that is signed with, as the address of the function whose own it would be: that function,
    /// or the first that signs so.
    owners: BTreeMap<PciAddress, PciAddress>,
    /// How each function signs.
    signs: BTreeMap<PciAddress, Vec<SourceId>>,
    /// Who signs alike, where they would not be together otherwise.
    alike: BTreeMap<PciAddress, BTreeSet<PciAddress>>,
}

impl Maker {
    pub(super) fn new(functions: &BTreeMap<PciAddress, Function>) -> Self {
        Self {
            numbers: functions.keys().copied().zip(0..).collect(),
            sets: Sets::new(functions.len()),
            reasons: Vec::new(),
            owners: BTreeMap::new(),
            signs: BTreeMap::new(),
            alike: BTreeMap::new(),
        }
    }

    /// Puts these functions into one group.
    pub(super) fn join(&mut self, functions: &[PciAddress]) {
        let mut numbers = functions.iter().filter_map(|address| self.numbers.get(address));
        let Some(first) = numbers.next() else { return };
        numbers.for_each(|other| {
            self.sets.join(*first, *other);
        });
    }

    /// Says why the group that this function will be in is one.
    pub(super) fn explain(&mut self, function: Option<PciAddress>, reason: Reason) {
        self.reasons.extend(function.map(|function| (function, reason)));
    }

    /// Notes that a function signs with this id, which makes it one with whoever else does and with the
    /// function whose own it is.
    pub(super) fn signs(&mut self, function: PciAddress, requester: SourceId) {
        self.signs.entry(function).or_default().push(requester);
        let signed = PciAddress::from_source(function.segment(), requester);
        let owner = if self.numbers.contains_key(&signed) { signed } else { function };
        let first = *self.owners.entry(signed).or_insert(owner);
        let numbers = (self.numbers.get(&first), self.numbers.get(&function));
        let (Some(first_number), Some(number)) = numbers else { return };
        if self.sets.join(*first_number, *number) {
            self.alike.entry(signed).or_default().extend([first, function]);
        }
    }

    pub(super) fn finish(mut self) -> Topology {
        for requesters in self.signs.values_mut() {
            requesters.sort_unstable();
            requesters.dedup();
        }
        let mut topology = Topology { requesters_of: self.signs, ..Topology::default() };
        let mut of_set = BTreeMap::new();
        // In the order of addresses, so that a group's first member makes it.
        for (address, number) in &self.numbers {
            let group = *of_set.entry(self.sets.find(*number)).or_insert_with(|| {
                topology.groups.push(Group {
                    segment: address.segment(),
                    members: Vec::new(),
                    requesters: Vec::new(),
                    reasons: Vec::new(),
                });
                topology.groups.len() - 1
            });
            if let Some(group) = topology.groups.get_mut(group) {
                group.members.push(*address);
            }
            topology.group_of.insert(*address, group);
        }
        for (function, reason) in self.reasons {
            if let Some(group) = topology.group_of_mut(function) {
                group.reasons.push(reason);
            }
        }
        for (signed, first) in &self.owners {
            let Some(group) = topology.group_of_mut(*first) else { continue };
            group.requesters.push(signed.source());
            if let Some(functions) = self.alike.remove(signed) {
                let functions = functions.into_iter().collect();
                group.reasons.push(Reason::OneRequester { requester: signed.source(), functions });
            }
        }
        topology
    }
}
