//! Why functions are in one group.

use alloc::vec::Vec;
use core::fmt;

use dma_types::{PciAddress, SourceId};

use crate::pci::PortType;

/// Why functions are in one group, or sign as another function would. It prints as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// They are functions of one device, and none of these has Access Control Services.
    Functions(Vec<PciAddress>),
    /// They are behind a port that has none.
    Port {
        /// The port.
        port: PciAddress,
        /// What it is.
        kind: PortType,
    },
    /// They are behind a switch that has a downstream port without.
    Switch {
        /// The port.
        port: PciAddress,
    },
    /// They are on a bus of conventional PCI, or behind one.
    ConventionalBus {
        /// The bridge that leads there.
        bridge: PciAddress,
    },
    /// Two bridges are said to lead to the same bus.
    TwoBridges {
        /// The first.
        first: PciAddress,
        /// The other.
        second: PciAddress,
    },
    /// A device is known to sign its requests as another function of it would.
    KnownAlias {
        /// The device.
        function: PciAddress,
        /// How it signs.
        requester: SourceId,
    },
    /// Firmware says that a device signs its requests as another would.
    FirmwareAlias {
        /// The device.
        function: PciAddress,
        /// How it signs.
        requester: SourceId,
    },
    /// They sign their requests alike.
    OneRequester {
        /// How they sign.
        requester: SourceId,
        /// The functions.
        functions: Vec<PciAddress>,
    },
}

/// Addresses as a list in words.
struct List<'a>(&'a [PciAddress]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            match index {
                0 => {}
                _ if index + 1 == self.0.len() => f.write_str(" and ")?,
                _ => f.write_str(", ")?,
            }
            address.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Functions(functions) => {
                write!(f, "{} are functions of one device without ACS", List(functions))
            }
            Self::Port { port, kind } => {
                write!(f, "{port} is a {kind} without ACS: what is behind it can reach each other")
            }
            Self::Switch { port } => write!(
                f,
                "{port} is a downstream port without ACS: what is behind its switch can reach each other"
            ),
            Self::ConventionalBus { bridge } => write!(
                f,
                "{bridge} is a bridge to a bus of conventional PCI: what is behind it cannot be told apart"
            ),
            Self::TwoBridges { first, second } => {
                write!(f, "{first} and {second} are both said to lead to the same bus")
            }
            Self::KnownAlias { function, requester } => {
                write!(f, "{function} is of a kind that signs its requests as {requester}")
            }
            Self::FirmwareAlias { function, requester } => {
                write!(f, "firmware says that {function} signs its requests as {requester}")
            }
            Self::OneRequester { requester, functions } => {
                write!(f, "{} sign their requests as {requester}", List(functions))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reasons_are_sentences_that_name_functions() {
        let at = |text: &str| text.parse().unwrap();
        let functions = |texts: &[&str]| texts.iter().map(|text| at(text)).collect::<Vec<_>>();
        for (reason, sentence) in [
            (
                Reason::Functions(functions(&["01:00.0", "01:00.1"])),
                "0000:01:00.0 and 0000:01:00.1 are functions of one device without ACS",
            ),
            (
                Reason::Port { port: at("00:1c.0"), kind: PortType::RootPort },
                "0000:00:1c.0 is a root port without ACS: what is behind it can reach each other",
            ),
            (
                Reason::OneRequester {
                    requester: SourceId::new(0x0500),
                    functions: functions(&["05:00.0", "05:01.0", "05:02.0"]),
                },
                "0000:05:00.0, 0000:05:01.0 and 0000:05:02.0 sign their requests as 05:00.0",
            ),
        ] {
            assert_eq!(reason.to_string(), sentence);
        }
        assert_eq!(List(&[]).to_string(), "");
    }
}
