//! Which bridges are above a bus.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::PciAddress;

use crate::pci::Function;

/// A bus of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bus {
    pub(super) segment: u16,
    pub(super) number: u8,
}

impl Bus {
    /// The bus that a function is on.
    pub(super) fn of(function: PciAddress) -> Self {
        Self { segment: function.segment(), number: function.bus() }
    }

    /// The bus right behind a bridge. Zero is that of a bridge that nobody has configured.
    pub(super) fn behind(function: &Function) -> Option<Self> {
        let number = function.bridge?.secondary;
        (number != 0).then_some(Self { segment: function.address.segment(), number })
    }
}

/// The bridges of a machine, by the buses they lead to.
pub(super) struct Buses<'a> {
    bridges: BTreeMap<Bus, &'a Function>,
    /// Bridges that are said to lead where another leads already, after that other.
    pub(super) rivals: Vec<(&'a Function, &'a Function)>,
}

impl<'a> Buses<'a> {
    pub(super) fn new(functions: &'a BTreeMap<PciAddress, Function>) -> Self {
        let mut buses = Self { bridges: BTreeMap::new(), rivals: Vec::new() };
        for function in functions.values() {
            let Some(bus) = Bus::behind(function) else { continue };
            match buses.bridges.get(&bus) {
                Some(first) => buses.rivals.push((first, function)),
                None => {
                    buses.bridges.insert(bus, function);
                }
            }
        }
        buses
    }

    /// The bridge right above a bus, if it is no root bus.
    pub(super) fn bridge_to(&self, bus: Bus) -> Option<&'a Function> {
        self.bridges.get(&bus).copied()
    }

    /// The bridges above a bus, the nearest first. Each bus is passed once, so that bridges whose bus numbers
    /// go round in a ring end (rule R5).
    pub(super) fn above(&self, bus: Bus) -> Vec<&'a Function> {
        let mut above = Vec::new();
        let mut seen = BTreeSet::new();
        let mut here = bus;
        while let Some(bridge) = self.bridge_to(here).filter(|_| seen.insert(here)) {
            above.push(bridge);
            here = Bus::of(bridge.address);
        }
        above
    }
}
