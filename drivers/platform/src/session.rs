//! The device at iommud.

use dma_types::PciAddress;
use libdma::handle::DEVICE_VARIABLE;
use libdma::{Device, Handle};

use crate::error::Error;
use crate::{adopt, connect, variable};

/// The device whose handle was passed to this process, if one was; for whoever asks first.
///
/// # Errors
///
/// [`Error::NoPassedHandle`]; [`Error::Iommud`] if it is no device's handle.
pub fn passed() -> Result<Option<Device>, Error> {
    passed_as(DEVICE_VARIABLE)?.map(|handle| Ok(Device::from_handle(handle)?)).transpose()
}

/// The handle that was passed to this process as the descriptor that this variable names, if one was; for whoever asks first.
///
/// # Errors
///
/// [`Error::NoPassedHandle`].
pub fn passed_as(variable: &str) -> Result<Option<Handle>, Error> {
    // SAFETY: whoever set the variable made the descriptor over to this process, and it is taken once.
    variable::take(variable).map(|number| unsafe { adopt(&number) }).transpose()
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
