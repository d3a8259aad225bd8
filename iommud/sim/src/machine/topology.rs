//! Which function is behind which bridge and unit, and how its requests are signed.

use std::collections::BTreeMap;

use dma_types::{PciAddress, SourceId};

use super::config::UnitScope;
use crate::pci::{BridgeKind, Function};

/// All functions of a machine.
pub(super) type Functions = BTreeMap<PciAddress, Function>;

/// The bridge with this bus directly or somewhere behind it, of those that are nearest to the root.
fn bridge_to(functions: &Functions, segment: u16, bus: u8) -> Option<(PciAddress, &Function)> {
    functions
        .iter()
        .filter(|(address, _)| address.segment() == segment && address.bus() < bus)
        .find(|(_, function)| function.buses().is_some_and(|buses| buses.contains(&bus)))
        .map(|(&address, function)| (address, function))
}

/// The bridges between the root complex and a function, outermost first.
pub(super) fn bridges(
    functions: &Functions,
    address: PciAddress,
) -> impl DoubleEndedIterator<Item = (PciAddress, &Function)> {
    let mut chain = Vec::new();
    let mut bus = address.bus();
    // Each bridge found is on a lower bus than what is behind it, so this ends.
    while bus != 0 {
        let on_bus = functions.iter().find(|(at, function)| {
            at.segment() == address.segment()
                && at.bus() < bus
                && function.buses().is_some_and(|buses| *buses.start() == bus)
        });
        let found = on_bus.map(|(&at, function)| (at, function));
        let Some(bridge) = found.or_else(|| bridge_to(functions, address.segment(), bus)) else {
            break;
        };
        bus = bridge.0.bus();
        chain.push(bridge);
    }
    chain.into_iter().rev()
}

/// The source-id with which requests of a function, which signs them as `own`, arrive at a unit.
pub(super) fn requester(functions: &Functions, address: PciAddress, own: SourceId) -> SourceId {
    bridges(functions, address).rev().fold(own, |signed, (at, bridge)| match bridge.bridge_kind() {
        Some(BridgeKind::ExpressToPci) => {
            let secondary = bridge.buses().map_or(0, |buses| *buses.start());
            SourceId::new(u16::from(secondary) << 8)
        }
        Some(BridgeKind::Conventional) => at.source(),
        _ => signed,
    })
}

/// The number of the unit that translates the requests of a function; a unit is its segment and its scope.
pub(super) fn unit_of<'a>(
    mut units: impl Iterator<Item = (u16, &'a UnitScope)> + Clone,
    functions: &Functions,
    address: PciAddress,
) -> Option<usize> {
    let on_the_way = |at: &PciAddress| bridges(functions, address).any(|(bridge, _)| bridge == *at);
    let named = |(_, scope): (_, &UnitScope)| match scope {
        UnitScope::IncludeAll => false,
        UnitScope::Devices(devices) => devices.iter().any(|at| *at == address || on_the_way(at)),
    };
    let rest = |(segment, scope): (u16, &UnitScope)| {
        segment == address.segment() && matches!(scope, UnitScope::IncludeAll)
    };
    units.clone().position(named).or_else(|| units.position(rest))
}
