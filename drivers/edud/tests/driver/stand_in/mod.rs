//! Stand-ins for the device and for iommud.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`iommu`] | memory, and where in it the device may go |
//! | [`daemon`] | a transport that answers as iommud does |
//! | [`edu`] | the device's registers and its DMA engine |

mod daemon;
mod edu;
mod iommu;

use std::sync::Arc;

use edud::daemon::Driver;
use libdma::{Device, PciAddress};

pub(crate) use daemon::Daemon;
pub(crate) use edu::Edu;
pub(crate) use iommu::{Guard, Iommu};

/// Where the device is.
pub(crate) fn address() -> PciAddress {
    PciAddress::new(0, 0, 2, 0).unwrap()
}

/// A driver of a device behind an IOMMU that is on guard, or is not.
pub(crate) fn driver(guard: Guard) -> Driver {
    let iommu = Iommu::new(guard);
    let device = Device::open(Arc::new(Daemon::new(iommu.clone())), address()).unwrap();
    Driver::new(device, Box::new(Edu::new(iommu))).unwrap()
}
