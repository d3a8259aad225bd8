//! How a function signs its requests by the time an IOMMU sees them.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use crate::pci::{Function, PortType};

/// How what is behind these bridges, the nearest first, signs besides with its own ids.
///
/// A bridge from PCI Express to conventional PCI signs with its secondary bus and device 0, for there are
/// no requester-ids on the other side (PCI Express to PCI/PCI-X Bridge Specification 1.0, 2.3; VT-d 3.4.1). A
/// bridge of conventional PCI makes the requests its own. One of conventional PCI right behind a port of
/// PCI Express cannot be: it is of the first kind and does not say so, and either way of signing is
/// expected.
pub(super) fn behind(bridges: &[&Function]) -> Vec<SourceId> {
    let mut requesters = Vec::new();
    for (index, bridge) in bridges.iter().enumerate() {
        let above = bridges.get(index + 1).and_then(|above| above.express);
        let (as_itself, as_bus) = match bridge.express {
            Some(PortType::RootPort | PortType::SwitchUpstream | PortType::SwitchDownstream) => {
                (false, false)
            }
            Some(PortType::BridgeToPci) => (false, true),
            Some(PortType::BridgeFromPci) => (true, false),
            None => (true, above.is_some_and(|above| above != PortType::BridgeToPci)),
            // What it says of itself cannot be true of a bridge.
            Some(_) => (true, true),
        };
        if as_itself {
            requesters.push(bridge.address.source());
        }
        if let Some(buses) = bridge.bridge.filter(|_| as_bus) {
            let first = PciAddress::new(bridge.address.segment(), buses.secondary, 0, 0);
            requesters.extend(first.map(PciAddress::source));
        }
    }
    requesters.sort_unstable();
    requesters.dedup();
    requesters
}
