//! Opening the device at iommud.

use dma_types::PciAddress;
use libdma::transport::scheme::Scheme;
use libdma::{Device, Error as DmaError};

use crate::error::Error;

/// Opens the device. Its handle has the rights that a driver needs for its memory, which are all there are for a
/// device; none of them opens another one.
pub(super) fn open(function: PciAddress) -> Result<Device, Error> {
    let device = Device::open(Scheme::new(), function).map_err(|error| match error {
        DmaError::DaemonGone => Error::NoIommud(function),
        error => Error::Device { address: function, error },
    })?;
    if !device.is_confined() {
        // iommud's policy allows it, and the driver does not ask.
        eprintln!("iommu-run: {function} is NOT CONFINED: the machine has no IOMMU that is used");
    }
    Ok(device)
}
