//! Which unit a device is behind, and which memory is reserved for it.

use core::ops::RangeInclusive;

use dma_types::PciAddress;

use super::reserved::Rmrr;
use super::scope::{DeviceScope, ScopeKind};
use super::table::{Dmar, Refusal};
use super::unit::Drhd;
use crate::acpi::Coverage;

/// Tells the buses behind a bridge, from its secondary to its subordinate bus; `None` for a function that
/// is absent or no bridge.
///
/// They are bytes 0x19 and 0x1a of a bridge's configuration space (PCI-to-PCI Bridge Architecture
/// Specification 1.2, 3.2.5.4 and 3.2.5.5). Numbers that make no sense may be passed on as they are: a
/// range that is empty, or does not lie above the bridge's own bus, counts as none here.
pub type BusesBehind<'a> = dyn FnMut(PciAddress) -> Option<RangeInclusive<u8>> + 'a;

/// The buses behind a bridge, if they can be true. Those of a bridge that nobody has configured are zero,
/// which must not pass for the root bus.
pub(super) fn buses_behind_bridge(
    bridge: PciAddress,
    buses_behind: &mut BusesBehind<'_>,
) -> Option<RangeInclusive<u8>> {
    buses_behind(bridge).filter(|buses| !buses.is_empty() && *buses.start() > bridge.bus())
}

/// How closely a scope fits a device: the fewer functions it means, the closer it is. The closest wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It is the very function.
    Named,
    /// It is behind a bridge that is named, with this many buses behind it.
    BehindBridge(u16),
    /// It is in the segment of a unit with INCLUDE_PCI_ALL.
    All,
}

impl Dmar {
    /// Which unit translates for a device.
    ///
    /// Units that name the device come first, then those that name a bridge above it, the nearest first,
    /// and then the one that has all the rest of the segment (8.3). Of several that fit alike, which a sound
    /// table does not have, the first that can be used counts. A refused unit covers its devices like any other,
    /// so that they are not taken for another's.
    ///
    /// A virtual function is behind the unit of its physical function, which is the one to ask for.
    pub fn covering(&self, device: PciAddress, buses_behind: &mut BusesBehind<'_>) -> Coverage {
        let units = self.units.iter().enumerate();
        let units = units.map(|(index, unit)| (Coverage::Unit(index), unit));
        let refused = self.refused.iter().enumerate();
        let refused = refused.filter_map(|(index, refused)| match &refused.refusal {
            Refusal::Unit(unit, _) => Some((Coverage::Refused(index), unit)),
            Refusal::Region(..) | Refusal::Scope(_) => None,
        });
        units
            .chain(refused)
            .filter_map(|(coverage, unit)| Some((unit.fit(device, buses_behind)?, coverage)))
            .min_by_key(|(fit, _)| *fit)
            .map_or(Coverage::Nobody, |(_, coverage)| coverage)
    }

    /// The memory regions that are reserved for a device. One that names a bridge is for all behind it.
    pub fn reserved_for(
        &self,
        device: PciAddress,
        buses_behind: &mut BusesBehind<'_>,
    ) -> impl Iterator<Item = &Rmrr> {
        self.reserved.iter().filter(move |region| {
            closest(&region.scopes, region.segment, device, buses_behind).is_some()
        })
    }
}

impl Drhd {
    fn fit(&self, device: PciAddress, buses_behind: &mut BusesBehind<'_>) -> Option<Fit> {
        let named = closest(&self.scopes, self.segment, device, buses_behind);
        let all = self.include_pci_all && self.segment == device.segment();
        named.or(all.then_some(Fit::All))
    }
}

impl DeviceScope {
    fn fit(
        &self,
        segment: u16,
        device: PciAddress,
        buses_behind: &mut BusesBehind<'_>,
    ) -> Option<Fit> {
        let bridge = match self.kind {
            ScopeKind::Endpoint | ScopeKind::NamespaceDevice => false,
            ScopeKind::SubHierarchy => true,
            // These send interrupts, not DMA.
            ScopeKind::IoApic | ScopeKind::Hpet => return None,
            ScopeKind::Unknown(_) => return None,
        };
        if segment != device.segment() {
            return None;
        }
        let named = self.resolve(segment, buses_behind).ok()?;
        if named == device {
            return Some(Fit::Named);
        }
        let buses = if bridge { buses_behind_bridge(named, buses_behind) } else { None };
        let buses = buses.filter(|buses| buses.contains(&device.bus()))?;
        Some(Fit::BehindBridge(u16::from(*buses.end()) - u16::from(*buses.start()) + 1))
    }
}

fn closest(
    scopes: &[DeviceScope],
    segment: u16,
    device: PciAddress,
    buses_behind: &mut BusesBehind<'_>,
) -> Option<Fit> {
    scopes.iter().filter_map(|scope| scope.fit(segment, device, buses_behind)).min()
}

#[cfg(test)]
#[path = "tests/coverage.rs"]
mod tests;
