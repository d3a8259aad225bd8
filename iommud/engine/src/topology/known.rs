//! Devices that are not what their registers say.
//!
//! Each is a fact about hardware that Linux knows too, as a quirk of the same device.

use dma_types::{PciAddress, SourceId};

use crate::pci::{Function, PortType};

const AMD: u16 = 0x1022;
const ATI: u16 = 0x1002;
const INTEL: u16 = 0x8086;

/// How a device signs its requests besides with its own id, if it is one of those that do not sign as the
/// function that they are.
pub(super) fn alias(function: &Function) -> Option<SourceId> {
    let address = function.address;
    let (device, number) = match (function.vendor, function.device) {
        // Ricoh's card readers and FireWire functions, and Glenfly's graphics, sign as function 0.
        (0x1180, 0xe832 | 0xe476) | (0x6766, 0x3d40 | 0x3d41) => (address.device(), 0),
        // SATA controllers with a chip of Marvell's sign as function 1, which need not exist: Marvell's own,
        // HighPoint's, JMicron's and Plextor's.
        (
            0x1b4b,
            0x9120 | 0x9123 | 0x9125 | 0x9128 | 0x9130 | 0x9170 | 0x9172 | 0x917a | 0x9182 | 0x9183
            | 0x91a0 | 0x9215 | 0x9220 | 0x9230 | 0x9235,
        )
        | (0x1103, 0x0642 | 0x0645)
        | (0x197b, 0x2392)
        | (0x1c28, 0x0122) => (address.device(), 1),
        // Adaptec's RAID controllers 3405 and 3805 sign as a device 1 that cannot be seen. Others with the same
        // number do not; the id is of their own bus all the same.
        (0x9005, 0x0285) => (1, 0),
        _ => return None,
    };
    let alias = PciAddress::new(address.segment(), address.bus(), device, number)?;
    (alias != address).then(|| alias.source())
}

/// Whether a function is known not to reach its siblings, though it has no ACS capability.
pub(super) fn keeps_to_itself(function: &Function) -> bool {
    match (function.vendor, function.device) {
        // Endpoints of Intel's root complexes reach each other with translated addresses only (VT-d 3.16 in
        // revision 3.1), and none are given out.
        (INTEL, _) if function.express == Some(PortType::RootComplexEndpoint) => true,
        // Intel's network controllers, by what Intel says of them: 82598 and 82599, X540 and X550, 82580,
        // 82576, 82575, I350, 82571 and I219.
        (
            INTEL,
            0x10c6
            | 0x10db
            | 0x10dd
            | 0x10e1
            | 0x10f1
            | 0x10f7..=0x10fc
            | 0x1507
            | 0x1514
            | 0x151c
            | 0x1529
            | 0x152a
            | 0x154d
            | 0x154f
            | 0x1551
            | 0x1558,
        )
        | (INTEL, 0x1509 | 0x150e..=0x1511 | 0x1516 | 0x1527)
        | (INTEL, 0x10c9 | 0x10e6..=0x10e8 | 0x150a | 0x150d | 0x1518 | 0x1526)
        | (INTEL, 0x10a7 | 0x10a9 | 0x10d6)
        | (INTEL, 0x1521..=0x1524)
        | (INTEL, 0x105e..=0x1060 | 0x10d9)
        | (INTEL, 0x15b7 | 0x15b8) => true,
        // Network controllers of Solarflare, Emulex and Broadcom, by what these say.
        (0x1924, 0x0903 | 0x0923 | 0x0a03)
        | (0x19a2, 0x0710)
        | (0x10df, 0x0720)
        | (0x14e4, 0x16d7 | 0x1750..=0x1752 | 0x1760..=0x1763) => true,
        // AMD's southbridges, by what AMD says of them in machines with an IOMMU.
        (ATI, 0x4383..=0x4385 | 0x4399 | 0x439c | 0x439d) | (AMD, 0x7809 | 0x780f) => {
            function.address.bus() == 0
        }
        _ => false,
    }
}
