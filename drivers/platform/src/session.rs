//! The device at iommud.

use dma_types::PciAddress;
use libdma::{Device, HandedError, Handle};

use crate::error::Error;
use crate::{adopt, connect, variable};

/// The device whose handle was passed to this process, if one was.
///
/// # Errors
///
/// [`Error::Handed`].
pub fn passed() -> Result<Option<Device>, Error> {
    match Device::handed() {
        Ok(device) => Ok(Some(device)),
        Err(HandedError::NotSet) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Another handle that was passed to this process, as the descriptor that this variable names, if one was; for whoever asks
/// first.
///
/// # Errors
///
/// [`Error::NotPassed`].
pub fn passed_as(variable: &str) -> Result<Option<Handle>, Error> {
    let Some(number) = variable::take(variable) else { return Ok(None) };
    let number: Option<u16> = number.parse().ok();
    // SAFETY: whoever set the variable made the descriptor over to this process, and it is taken once.
    let handle = number.and_then(|number| unsafe { adopt(number) });
    handle.map(Some).ok_or_else(|| Error::NotPassed(variable.into()))
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
