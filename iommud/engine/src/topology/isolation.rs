//! What lets functions reach each other past the IOMMU.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::PciAddress;

use super::buses::{Bus, Buses};
use super::known;
use super::reason::Reason;
use crate::pci::{Function, PortType};

/// The functions of one device: a bus, and the device's number on it if it shares the bus.
type Device = (Bus, Option<u8>);

/// What lets functions reach each other.
pub(super) struct Leaks {
    /// Functions that reach each other, and why.
    pub(super) together: Vec<(Vec<PciAddress>, Reason)>,
    /// Bridges that all that is behind them belongs to.
    pub(super) binding: BTreeSet<PciAddress>,
}

pub(super) fn leaks(functions: &BTreeMap<PciAddress, Function>, buses: &Buses<'_>) -> Leaks {
    let mut leaks = Leaks { together: Vec::new(), binding: BTreeSet::new() };
    let devices = devices(functions, buses);
    for siblings in devices.values().filter(|siblings| siblings.len() > 1) {
        let open = siblings.iter().filter(|function| !is_isolated(function));
        let open: Vec<_> = open.map(|function| function.address).collect();
        if open.len() > 1 {
            leaks.together.push((open.clone(), Reason::Functions(open)));
        }
    }
    let mut occupied: BTreeMap<Bus, Vec<&Function>> = BTreeMap::new();
    for function in functions.values() {
        occupied.entry(Bus::of(function.address)).or_default().push(function);
    }
    for bridge in functions.values().filter(|function| function.bridge.is_some()) {
        let alone = devices.get(&device(bridge, buses)).is_none_or(|device| device.len() == 1);
        let Some(reason) = binds(bridge, alone) else { continue };
        leaks.binding.insert(bridge.address);
        if Bus::behind(bridge).is_some_and(|bus| occupied.contains_key(&bus)) {
            leaks.together.push((Vec::from([bridge.address]), reason));
        }
    }
    // What a downstream port lets through reaches the switch's other ports and all behind them.
    for (bus, here) in &occupied {
        if buses.bridge_to(*bus).and_then(|port| port.express) != Some(PortType::SwitchUpstream) {
            continue;
        }
        let open = here
            .iter()
            .find(|port| port.express == Some(PortType::SwitchDownstream) && !is_isolated(port));
        let Some(open) = open.filter(|_| here.len() > 1) else { continue };
        let ports: Vec<_> = here.iter().map(|port| port.address).collect();
        leaks.binding.extend(&ports);
        leaks.together.push((ports, Reason::Switch { port: open.address }));
    }
    for (first, second) in &buses.rivals {
        let (first, second) = (first.address, second.address);
        leaks.binding.extend([first, second]);
        leaks.together.push((Vec::from([first, second]), Reason::TwoBridges { first, second }));
    }
    leaks
}

/// The functions of each device. Right behind a port of PCI Express there is one device alone, whose
/// functions may be numbered on into what looks like other devices (ARI, PCI Express 6.13).
fn devices<'a>(
    functions: &'a BTreeMap<PciAddress, Function>,
    buses: &Buses<'_>,
) -> BTreeMap<Device, Vec<&'a Function>> {
    let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for function in functions.values() {
        devices.entry(device(function, buses)).or_default().push(function);
    }
    devices
}

fn device(function: &Function, buses: &Buses<'_>) -> Device {
    let bus = Bus::of(function.address);
    match buses.bridge_to(bus).and_then(|bridge| bridge.express) {
        Some(PortType::RootPort | PortType::SwitchDownstream) => (bus, None),
        _ => (bus, Some(function.address.device())),
    }
}

/// Whether a function sends up what it could send to a sibling. An event collector sends nothing but its own
/// interrupts, and an IOMMU has nobody to obey but the engine.
fn is_isolated(function: &Function) -> bool {
    function.acs.is_some()
        || function.is_iommu()
        || function.express == Some(PortType::RootComplexEventCollector)
        || known::keeps_to_itself(function)
}

/// Why all that is behind a bridge belongs to it, if it does. `alone`: whether its device has no function
/// besides.
fn binds(bridge: &Function, alone: bool) -> Option<Reason> {
    let port = bridge.address;
    let isolates = match bridge.express {
        None | Some(PortType::BridgeToPci) => {
            return Some(Reason::ConventionalBus { bridge: port });
        }
        Some(PortType::RootPort | PortType::SwitchDownstream) => is_isolated(bridge),
        // There is but one way on from it, unless a sibling takes part.
        Some(PortType::SwitchUpstream) => alone || is_isolated(bridge),
        Some(_) => false,
    };
    let kind = bridge.express.filter(|_| !isolates)?;
    Some(Reason::Port { port, kind })
}
