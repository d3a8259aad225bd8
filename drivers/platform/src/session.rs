//! The device at iommud.

use dma_types::PciAddress;
use libdma::{Device, HandedError, Handle};

use crate::error::Error;
use crate::{connect, variable};

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

/// The variable by which [`lent`] finds its handle.
pub const LENT_VARIABLE: &str = "IOMMU_LENT";

/// Another handle that was passed to this process beside its device, as the descriptor that [`LENT_VARIABLE`] names, if
/// one was; for whoever asks first.
///
/// # Errors
///
/// [`Error::NotPassed`].
pub fn lent() -> Result<Option<Handle>, Error> {
    let Some(number) = variable::take(LENT_VARIABLE) else { return Ok(None) };
    // SAFETY: whoever started this process set the variable, and made the descriptor over by that; it is taken once. A
    // variable that names the device's, too, is refused, for that was taken over or is closed.
    let handle = number.parse().ok().and_then(|number| unsafe { Handle::inherited(number) });
    handle.map(Some).ok_or_else(|| Error::NotPassed(LENT_VARIABLE.into()))
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
