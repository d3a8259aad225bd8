//! Which functions an IOMMU can tell apart, and which can only be confined together.
//!
//! | module | what is in it |
//! | --- | --- |
//! | here | [`Topology`]: functions put into groups |
//! | [`group`] | a group |
//! | [`reason`] | why functions are in one group |
//! | `buses` | which bridges are above a bus |
//! | `requesters` | how a function signs its requests by the time an IOMMU sees them |
//! | `isolation` | what lets functions reach each other past the IOMMU |
//! | `known` | devices that are not what their registers say |
//! | `maker` | groups in the making |
//! | `sets` | joining sets |
//!
//! # Groups
//!
//! A group is attached to one domain as a whole. Functions are in one group
//!
//! - if they sign requests alike: behind a bridge from PCI Express to conventional PCI requests carry the
//!   number of its secondary bus and device 0, behind a bridge of conventional PCI they may carry the
//!   bridge's own; some devices sign with another function of theirs; and AMD's firmware tables name others;
//! - if they could reach each other without passing the IOMMU: functions of one device, of those that have no
//!   [Access Control Services](crate::pci::acs); all that is behind a port without them, with the port; all that
//!   is behind a switch one of whose downstream ports has none; a conventional bus, with its bridge.
//!
//! A service that is offered counts as enabled, for the engine [enables](crate::pci::acs::enable) it before it
//! translates.
//!
//! Bridges and ports are in the group of what is behind them if they are the reason for it, and else in one of
//! their own. Nobody opens them, and they sign no requests of their own that matter: what devices behind
//! a bridge sign with counts for those devices.
//!
//! # What is not proven
//!
//! Root ports and devices of the root complex are taken not to pass requests to each other behind the IOMMU's
//! back if they are different devices, and a function with Access Control Services not to be reached
//! by a sibling that has none. Linux takes both for granted. A switch without Access Control Services is
//! one group here, where Linux has long put each of its ports apart.
//!
//! A device that lies about its requester-id is stopped where a port above it validates sources. Virtual
//! functions, non-transparent bridges and CardBus are not looked for: what signs with an id that no function
//! has been found for is in no group, is attached to nothing, and reaches nothing (rule R1).

mod buses;
pub mod group;
mod isolation;
mod known;
mod maker;
pub mod reason;
mod requesters;
mod sets;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use self::buses::{Bus, Buses};
pub use self::group::Group;
use self::maker::Maker;
pub use self::reason::Reason;
use crate::pci::Function;

/// What firmware says of how a function signs its requests, besides with its own id: the alias entries of
/// AMD's tables.
pub type FirmwareAlias<'a> = dyn Fn(PciAddress) -> Option<SourceId> + 'a;

/// The functions of a machine, in groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    groups: Vec<Group>,
    group_of: BTreeMap<PciAddress, usize>,
    requesters_of: BTreeMap<PciAddress, Vec<SourceId>>,
}

impl Topology {
    /// Puts functions into groups. Each is in exactly one, and no two groups have a requester-id of a
    /// segment in common. Groups are in the order of their first members.
    pub fn new(
        functions: &BTreeMap<PciAddress, Function>,
        firmware_alias: &FirmwareAlias<'_>,
    ) -> Self {
        let buses = Buses::new(functions);
        let leaks = isolation::leaks(functions, &buses);
        let mut maker = Maker::new(functions);
        for (together, reason) in leaks.together {
            maker.join(&together);
            maker.explain(together.first().copied(), reason);
        }
        let mut on_bus: BTreeMap<Bus, Vec<&Function>> = BTreeMap::new();
        for function in functions.values() {
            on_bus.entry(Bus::of(function.address)).or_default().push(function);
        }
        for (bus, here) in on_bus {
            let above = buses.above(bus);
            let bound = above.iter().any(|bridge| leaks.binding.contains(&bridge.address));
            if let Some(nearest) = above.first().filter(|_| bound) {
                here.iter().for_each(|function| maker.join(&[nearest.address, function.address]));
            }
            let shared = requesters::behind(&above);
            let devices = here.iter().filter(|function| function.bridge.is_none());
            let devices: Vec<_> = devices.map(|function| function.address).collect();
            for device in devices {
                maker.signs(device, device.source());
                shared.iter().for_each(|requester| maker.signs(device, *requester));
            }
        }
        for function in functions.values().filter(|function| function.bridge.is_none()) {
            let address = function.address;
            if let Some(requester) = known::alias(function) {
                maker.signs(address, requester);
                maker.explain(Some(address), Reason::KnownAlias { function: address, requester });
            }
            let alias = firmware_alias(address).filter(|alias| *alias != address.source());
            if let Some(requester) = alias {
                maker.signs(address, requester);
                let reason = Reason::FirmwareAlias { function: address, requester };
                maker.explain(Some(address), reason);
            }
        }
        maker.finish()
    }

    /// Each function in a group of its own: where there is no IOMMU, grouping them would confine none.
    pub fn apart(functions: &BTreeMap<PciAddress, Function>) -> Self {
        let mut maker = Maker::new(functions);
        for function in functions.values().filter(|function| function.bridge.is_none()) {
            maker.signs(function.address, function.address.source());
        }
        maker.finish()
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Which of [`groups`](Self::groups) a function is in.
    pub fn group_of(&self, function: PciAddress) -> Option<usize> {
        self.group_of.get(&function).copied()
    }

    /// How a function signs its requests by the time an IOMMU sees them, in order and each once: with its own
    /// id, and with those of bridges and other functions. Nothing for a bridge.
    pub fn requesters_of(&self, function: PciAddress) -> &[SourceId] {
        self.requesters_of.get(&function).map_or(&[], Vec::as_slice)
    }

    fn group_of_mut(&mut self, function: PciAddress) -> Option<&mut Group> {
        let group = self.group_of(function)?;
        self.groups.get_mut(group)
    }
}

#[cfg(test)]
pub(crate) mod tests;
