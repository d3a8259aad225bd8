//! A function, what it says of itself, and finding them all.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::PciAddress;

use super::acs::{self, Acs};
use super::express::{self, PortType};
use super::registers::{BusNumbers, Class, CommandStatus, ConfigRegister, Header, Identity, read};
use crate::platform::ConfigSpace;

const NO_VENDOR: u16 = 0xffff;
const INTEL: u16 = 0x8086;
const BRIDGE_LAYOUT: u8 = 1;
const IOMMU_CLASS: u32 = 0x0806;

/// A PCI function that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Who made it.
    pub vendor: u16,
    /// What its maker calls it.
    pub device: u16,
    /// Base class, subclass and programming interface, the base class highest: 0x010802 is NVMe.
    pub class: u32,
    /// The buses behind it, if it is a bridge.
    pub bridge: Option<BusRange>,
    /// What it is in PCI Express; `None` for a function of conventional PCI.
    pub express: Option<PortType>,
    /// Its Access Control Services, if it has them.
    pub acs: Option<Acs>,
}

impl Function {
    /// Whether it is an IOMMU's own function (PCI Code and ID Assignment Specification: base class 08h,
    /// subclass 06h).
    pub const fn is_iommu(&self) -> bool {
        self.class >> 8 == IOMMU_CLASS
    }
}

/// The buses behind a bridge: the one right behind it, and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusRange {
    /// The bus on the bridge's other side.
    pub secondary: u8,
    /// The highest-numbered bus that is reached through the bridge.
    pub subordinate: u8,
}

/// The function at this address, or `None` if there is none.
pub fn function(config: &mut impl ConfigSpace, address: PciAddress) -> Option<Function> {
    let identity: Identity = read(config, address);
    if identity.vendor() == NO_VENDOR || identity.into_bits() == 0 {
        return None;
    }
    let class: Class = read(config, address);
    let header: Header = read(config, address);
    let bridge = (header.layout() == BRIDGE_LAYOUT).then(|| {
        let buses: BusNumbers = read(config, address);
        BusRange { secondary: buses.secondary(), subordinate: buses.subordinate() }
    });
    let express = express::port_type(config, address);
    let acs =
        express.and_then(|port| acs::acs(config, address, has_acs_control_apart(identity, port)));
    Some(Function {
        address,
        vendor: identity.vendor(),
        device: identity.device(),
        class: u32::from_be_bytes([0, class.base(), class.subclass(), class.interface()]),
        bridge,
        express,
        acs,
    })
}

/// Whether this is a root port of Intel's 100 and 200 series chipsets or of the mobile ones of their time,
/// which have the ACS control register in the wrong place (100 series erratum 23, 200 series erratum 22;
/// Linux treats the same ports alike).
fn has_acs_control_apart(identity: Identity, port: PortType) -> bool {
    let device = identity.device();
    identity.vendor() == INTEL
        && port == PortType::RootPort
        && matches!(
            device,
            0xa110..=0xa11f | 0xa167..=0xa16a | 0xa290..=0xa29f | 0xa2e7..=0xa2ee | 0x9d10..=0x9d1b
        )
}

/// Every function that is reached from these buses of a segment, through any number of bridges.
pub fn scan(
    config: &mut impl ConfigSpace,
    segment: u16,
    roots: impl IntoIterator<Item = u8>,
) -> BTreeMap<PciAddress, Function> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<u8> = roots.into_iter().collect();
    // Each bus once, so that bridges whose bus numbers go round in a ring end (rule R5).
    let mut seen = BTreeSet::new();
    while let Some(bus) = waiting.pop() {
        if !seen.insert(bus) {
            continue;
        }
        for device in 0..32 {
            for here in functions_of_device(config, segment, bus, device) {
                // Bus 0 behind a bridge is one that nobody has configured.
                waiting.extend(here.bridge.map(|bridge| bridge.secondary).filter(|bus| *bus != 0));
                found.insert(here.address, here);
            }
        }
    }
    found
}

fn functions_of_device(
    config: &mut impl ConfigSpace,
    segment: u16,
    bus: u8,
    device: u8,
) -> Vec<Function> {
    let mut functions = Vec::new();
    for number in 0..8 {
        let Some(address) = PciAddress::new(segment, bus, device, number) else { break };
        let Some(found) = function(config, address) else {
            if number == 0 { break } else { continue }
        };
        functions.push(found);
        let header: Header = read(config, address);
        if number == 0 && !header.multi_function() {
            break;
        }
    }
    functions
}

/// Whether a function may start transactions.
pub fn is_bus_master(config: &mut impl ConfigSpace, function: PciAddress) -> bool {
    let command: CommandStatus = read(config, function);
    command.into_bits() != u32::MAX && command.bus_master()
}

/// Stops a function from starting transactions, DMA among them. Whether it did before.
pub fn clear_bus_master(config: &mut impl ConfigSpace, function: PciAddress) -> bool {
    let command: CommandStatus = read(config, function);
    if command.into_bits() == u32::MAX || !command.bus_master() {
        return false;
    }
    // A zero in the status half leaves it as it is: what it holds is cleared by ones.
    let command = command.with_bus_master(false).with_status(0);
    config.config_write(function, CommandStatus::OFFSET, command.into_bits());
    true
}

/// Lets a function start transactions, messages that interrupt among them (PCI 3.0, 6.8.2).
pub fn set_bus_master(config: &mut impl ConfigSpace, function: PciAddress) {
    let command: CommandStatus = read(config, function);
    if command.into_bits() == u32::MAX || command.bus_master() {
        return;
    }
    let command = command.with_bus_master(true).with_status(0);
    config.config_write(function, CommandStatus::OFFSET, command.into_bits());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Functions given by literal dwords, at the offsets that the specification gives.
    #[derive(Default)]
    pub(crate) struct Config {
        pub(crate) dwords: BTreeMap<(PciAddress, u16), u32>,
        pub(crate) written: Vec<(PciAddress, u16, u32)>,
        /// Whether what is written changes nothing.
        pub(crate) stubborn: bool,
    }

    impl Config {
        pub(crate) fn add(
            &mut self,
            address: &str,
            identity: u32,
            class: u32,
            header: u32,
            buses: u32,
        ) {
            let address = address.parse().unwrap();
            for (offset, dword) in
                [(0, identity), (4, 0x0810_0007), (8, class), (12, header), (0x18, buses)]
            {
                self.dwords.insert((address, offset), dword);
            }
        }

        pub(crate) fn set(&mut self, address: &str, offset: u16, dword: u32) {
            self.dwords.insert((address.parse().unwrap(), offset), dword);
        }

        /// Gives a function a PCI Express capability with this type.
        pub(crate) fn express(&mut self, address: &str, port_type: u32) {
            self.set(address, 0x34, 0x40);
            self.set(address, 0x40, 0x0002_0010 | port_type << 20);
        }

        /// Gives a function of PCI Express Access Control Services: V, R, C and U.
        pub(crate) fn services(&mut self, address: &str) {
            self.set(address, 0x100, 0x0001_000d);
            self.set(address, 0x104, 0x0000_001d);
        }
    }

    impl ConfigSpace for Config {
        fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
            self.dwords.get(&(function, offset)).copied().unwrap_or(u32::MAX)
        }

        fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
            self.written.push((function, offset, value));
            if !self.stubborn {
                self.dwords.insert((function, offset), value);
            }
        }
    }

    #[test]
    fn functions_are_found_behind_bridges_and_beside_function_zero() {
        let mut config = Config::default();
        config.add("00:00.0", 0x29c0_8086, 0x0600_0000, 0, 0);
        config.add("00:02.0", 0x11e8_1234, 0x00ff_0010, 0x0080_0000, 0);
        config.add("00:02.3", 0x1533_8086, 0x0200_0003, 0x0080_0000, 0);
        config.add("00:03.0", 0x000c_1b36, 0x0604_0000, 0x0001_0000, 0x0003_0100);
        config.add("01:00.0", 0x11e8_1234, 0x00ff_0010, 0, 0);
        config.add("01:00.1", 0x11e8_1234, 0x00ff_0010, 0, 0);
        let found = scan(&mut config, 0, [0]);
        let names: Vec<_> = found.keys().map(alloc::string::ToString::to_string).collect();
        // 01:00.1 answers, but 01:00.0 says that it has no siblings.
        assert_eq!(
            names,
            ["0000:00:00.0", "0000:00:02.0", "0000:00:02.3", "0000:00:03.0", "0000:01:00.0"]
        );
        let bridge = found[&"00:03.0".parse().unwrap()];
        assert_eq!(bridge.bridge, Some(BusRange { secondary: 1, subordinate: 3 }));
        let edu = found[&"01:00.0".parse().unwrap()];
        assert_eq!((edu.vendor, edu.device, edu.class), (0x1234, 0x11e8, 0x00_ff00));
    }

    #[test]
    fn r5_bridges_in_a_ring_end() {
        let mut config = Config::default();
        config.add("00:01.0", 0x000c_1b36, 0x0604_0000, 0x0001_0000, 0x00ff_0100);
        config.add("01:01.0", 0x000c_1b36, 0x0604_0000, 0x0001_0000, 0x00ff_0201);
        config.add("02:01.0", 0x000c_1b36, 0x0604_0000, 0x0001_0000, 0x00ff_0102);
        assert_eq!(scan(&mut config, 0, [0]).len(), 3);
    }

    #[test]
    fn clearing_bus_mastering_clears_no_status() {
        let mut config = Config::default();
        config.add("00:02.0", 0x11e8_1234, 0, 0, 0);
        let address = "00:02.0".parse().unwrap();
        clear_bus_master(&mut config, address);
        assert_eq!(config.written, [(address, 4, 0x0000_0003)]);
        config.set("00:02.0", 4, 0xf010_0003);
        set_bus_master(&mut config, address);
        set_bus_master(&mut config, address);
        assert_eq!(config.written[1..], [(address, 4, 0x0000_0007)]);
        assert!(is_bus_master(&mut config, address));
        assert!(!is_bus_master(&mut config, "00:05.0".parse().unwrap()), "there is none");
        clear_bus_master(&mut config, "00:05.0".parse().unwrap());
        set_bus_master(&mut config, "00:05.0".parse().unwrap());
        assert_eq!(config.written.len(), 2);
    }
}
