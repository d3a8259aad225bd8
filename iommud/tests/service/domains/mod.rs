//! Explicit domains: what clients make of them, and how they end (R1, R3, R4, R7).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `reach` | what devices in them reach |
//! | `ending` | how they end, and units that are slow or fail |
//! | `rights` | who may do what with them, and what is refused |
//! | `reports` | what is written down of them, and shown |

mod ending;
mod reach;
mod reports;
mod rights;

use dma_types::PciAddress;
use libdma::{Device, Domain, Iova, Mapped};

use crate::chosen::piece;
use crate::rig::Rig;

const PAGE: u64 = 4096;

const FIXED: Iova = Iova::new(0x5000_0000);

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn open(rig: &Rig, address: PciAddress) -> Device {
    let device = Device::open(rig.transport(), address).unwrap();
    rig.service.lock().platform_mut().machine_mut().config_write(address, 4, 6);
    device
}

fn writes(rig: &Rig, device: PciAddress, iova: Iova) -> bool {
    rig.service.lock().platform().machine_mut().dma_write(device, iova.get(), &[7; 8]).is_ok()
}

/// A domain with a page at [`FIXED`].
fn with_page(device: &Device, buffer: &libdma::Buffer) -> (Domain, Mapped) {
    let domain = device.new_domain("shared").create().unwrap();
    let mapped = domain.map_at(FIXED, &[piece(buffer, 0, PAGE)]).unwrap()[0];
    (domain, mapped)
}

/// Closes a device's handle under its driver, as a death that closes it before all others.
fn end_session(rig: &Rig, device: &Device) {
    let handle = iommu_service::handles::handle::HandleId(device.handle().raw().number());
    rig.service.lock().close(handle);
}
