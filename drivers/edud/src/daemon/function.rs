//! The device found among PCI functions, and switched on.

use dma_types::PciAddress;
use driver_platform::Function;

use super::error::Error;
use crate::bar::MappedBar;
use crate::registers::{BAR, is_edu};

/// The function at this address; or else the one whose channel this process was started with, or the first there is.
///
/// # Errors
///
/// [`Error::NoDevice`], [`Error::NotEdu`], [`Error::Platform`].
pub fn find(wanted: Option<PciAddress>) -> Result<Function, Error> {
    let mut function = Function::find(wanted, is_edu)?.ok_or(Error::NoDevice)?;
    match is_edu(function.identity()?) {
        true => Ok(function),
        false => Err(Error::NotEdu(function.address())),
    }
}

/// Lets the function answer and do DMA, and maps its registers, until the process ends.
///
/// # Errors
///
/// [`Error::Platform`].
pub fn switch_on(mut function: Function) -> Result<MappedBar, Error> {
    function.let_answer()?;
    function.let_master()?;
    let registers = function.map(BAR)?;
    function.keep();
    // SAFETY: they were mapped just now, whole pages, uncached, and are never unmapped.
    Ok(unsafe { MappedBar::new(registers.cast(), registers.len()) })
}
