//! What a PCI Express function is: an endpoint, or a port of which kind.

use core::fmt;

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use super::capability;
use super::registers::{config_register, read_in};
use crate::platform::ConfigSpace;

/// The id of the PCI Express capability (PCI Express 7.5.3.1).
pub(super) const PCI_EXPRESS: u8 = 0x10;

/// The start of the PCI Express capability, with the PCI Express Capabilities register (PCI Express
/// 7.5.3.2) in its upper half.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct ExpressCapabilities {
    id: u8,
    next: u8,
    #[bits(4)]
    version: u8,
    /// Device/Port Type, bits 7:4 of the register.
    #[bits(4)]
    port_type: u8,
    slot_implemented: bool,
    #[bits(5)]
    interrupt_message: u8,
    #[bits(2)]
    __: u8,
}
config_register!(ExpressCapabilities, 0x00);

/// What a PCI Express function is (PCI Express 7.5.3.2, Device/Port Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// 0 and 1: an endpoint, or one that uses what PCI Express would rather be rid of.
    Endpoint,
    /// 4: a root port of a root complex.
    RootPort,
    /// 5: the port of a switch that leads to the root.
    SwitchUpstream,
    /// 6: a port of a switch that leads away from the root.
    SwitchDownstream,
    /// 7: a bridge from PCI Express to conventional PCI or PCI-X.
    BridgeToPci,
    /// 8: a bridge from conventional PCI or PCI-X to PCI Express.
    BridgeFromPci,
    /// 9: an endpoint that is a part of the root complex.
    RootComplexEndpoint,
    /// 10: an event collector of the root complex.
    RootComplexEventCollector,
    /// One of a later revision.
    Unknown(u8),
}

impl PortType {
    const fn new(code: u8) -> Self {
        match code {
            0 | 1 => Self::Endpoint,
            4 => Self::RootPort,
            5 => Self::SwitchUpstream,
            6 => Self::SwitchDownstream,
            7 => Self::BridgeToPci,
            8 => Self::BridgeFromPci,
            9 => Self::RootComplexEndpoint,
            10 => Self::RootComplexEventCollector,
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Endpoint => "endpoint",
            Self::RootPort => "root port",
            Self::SwitchUpstream => "upstream port of a switch",
            Self::SwitchDownstream => "downstream port of a switch",
            Self::BridgeToPci => "bridge to conventional PCI",
            Self::BridgeFromPci => "bridge from conventional PCI",
            Self::RootComplexEndpoint => "endpoint of the root complex",
            Self::RootComplexEventCollector => "event collector of the root complex",
            Self::Unknown(code) => return write!(f, "PCI Express function of type {code}"),
        })
    }
}

/// What a function is, or `None` if it is of conventional PCI.
pub(super) fn port_type(config: &mut impl ConfigSpace, function: PciAddress) -> Option<PortType> {
    let at = capability::find(config, function, PCI_EXPRESS)?;
    let capabilities: ExpressCapabilities = read_in(config, function, at);
    Some(PortType::new(capabilities.port_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::function::tests::Config;

    #[test]
    fn types_are_told_from_the_literal_register() {
        let mut config = Config::default();
        config.add("00:1c.0", 0x9d10_8086, 0x0604_0000, 0x0001_0000, 0x0001_0100);
        let at = "00:1c.0".parse().unwrap();
        assert_eq!(port_type(&mut config, at), None);
        config.set("00:1c.0", 0x34, 0x40);
        for (dword, expected) in [
            (0x0142_8010, PortType::RootPort),
            (0x0002_0010, PortType::Endpoint),
            (0x0012_0010, PortType::Endpoint),
            (0x0052_0010, PortType::SwitchUpstream),
            (0x0162_0010, PortType::SwitchDownstream),
            (0x0071_0010, PortType::BridgeToPci),
            (0x0081_0010, PortType::BridgeFromPci),
            (0x0092_0010, PortType::RootComplexEndpoint),
            (0x00a2_0010, PortType::RootComplexEventCollector),
            (0x00f2_0010, PortType::Unknown(15)),
        ] {
            config.set("00:1c.0", 0x40, dword);
            assert_eq!(port_type(&mut config, at), Some(expected));
        }
    }
}
