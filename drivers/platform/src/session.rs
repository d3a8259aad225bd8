//! The device at iommud.

use dma_types::PciAddress;
use libdma::Device;
use libdma::handle::DEVICE_VARIABLE;

use crate::error::Error;
use crate::{adopt, connect, variable};

/// The device whose handle was passed to this process, if one was; for whoever asks first.
///
/// # Errors
///
/// [`Error::NoPassedHandle`]; [`Error::Iommud`] if it is no device's handle.
pub fn passed() -> Result<Option<Device>, Error> {
    match variable::take(DEVICE_VARIABLE) {
        Some(number) => Ok(Some(Device::from_handle(adopt(&number)?)?)),
        None => Ok(None),
    }
}

/// The device at this address: the one that was [`passed`], or else opened at iommud.
///
/// # Errors
///
/// [`Error::OtherDevice`], [`Error::Open`].
pub fn open(address: PciAddress, passed: Option<Device>) -> Result<Device, Error> {
    match passed {
        Some(device) if device.address() == address => Ok(device),
        Some(device) => Err(Error::OtherDevice { passed: device.address(), wanted: address }),
        None => connect()
            .and_then(|transport| Device::open(transport, address))
            .map_err(|error| Error::Open { address, error }),
    }
}
