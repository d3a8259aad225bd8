//! Machines written out as configuration space.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use crate::pci::function::tests::Config;
use crate::pci::{Function, scan};
use crate::topology::Topology;

pub(crate) const ROOT_PORT: u32 = 4;
pub(crate) const UPSTREAM: u32 = 5;
pub(crate) const DOWNSTREAM: u32 = 6;
pub(crate) const TO_PCI: u32 = 7;
pub(crate) const IN_ROOT_COMPLEX: u32 = 9;
const ENDPOINT: u32 = 0;

/// A machine of one segment, whose root bus is 0.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) config: Config,
}

impl Machine {
    /// A function of conventional PCI; all of them say that their device may have more.
    pub(crate) fn conventional(mut self, address: &str) -> Self {
        self.config.add(address, 0x0001_1b36, 0x0200_0000, 0x0080_0000, 0);
        self
    }

    /// An endpoint of PCI Express.
    pub(crate) fn endpoint(self, address: &str) -> Self {
        self.express(address, ENDPOINT)
    }

    /// A function of PCI Express that is no bridge.
    pub(crate) fn express(self, address: &str, port_type: u32) -> Self {
        let mut machine = self.conventional(address);
        machine.config.express(address, port_type);
        machine
    }

    /// An endpoint made by this vendor as this device.
    pub(crate) fn made(self, address: &str, vendor: u32, device: u32) -> Self {
        let mut machine = self.endpoint(address);
        machine.config.set(address, 0, device << 16 | vendor);
        machine
    }

    /// A bridge of conventional PCI.
    pub(crate) fn bridge(mut self, address: &str, secondary: u32, subordinate: u32) -> Self {
        let buses = subordinate << 16 | secondary << 8;
        self.config.add(address, 0x0002_1b36, 0x0604_0000, 0x0081_0000, buses);
        self
    }

    /// A port, or a bridge, of PCI Express.
    pub(crate) fn port(
        self,
        address: &str,
        port_type: u32,
        secondary: u32,
        subordinate: u32,
    ) -> Self {
        let mut machine = self.bridge(address, secondary, subordinate);
        machine.config.express(address, port_type);
        machine
    }

    /// The functions given so far by these addresses have Access Control Services.
    pub(crate) fn with_services(mut self, addresses: &[&str]) -> Self {
        addresses.iter().for_each(|address| self.config.services(address));
        self
    }

    /// Its functions.
    pub(crate) fn functions(&mut self) -> BTreeMap<PciAddress, Function> {
        scan(&mut self.config, 0, [0])
    }

    /// Its groups, if firmware says nothing.
    pub(crate) fn topology(&mut self) -> Topology {
        Topology::new(&self.functions(), &|_| None)
    }

    /// The same as text: for each group its members, and how they sign.
    pub(crate) fn groups(&mut self) -> Vec<(String, String)> {
        self.topology().groups().iter().map(words).collect()
    }
}

fn words(group: &crate::topology::Group) -> (String, String) {
    let members = group.members.iter().map(|member| member.source());
    (list(members), list(group.requesters.iter().copied()))
}

fn list(ids: impl Iterator<Item = SourceId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}
