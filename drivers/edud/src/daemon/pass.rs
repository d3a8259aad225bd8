//! Passing the device on to another process.

use std::ffi::OsString;
use std::process::Command;

use driver_platform::{Error as PlatformError, let_inherit};
use libdma::handle::DEVICE_VARIABLE;

use super::claim::Claim;
use super::error::Error;
use super::run::Outcome;

/// Runs a command that inherits the device's handle, and finds its number in [`DEVICE_VARIABLE`], and on Redox pcid's
/// channel. This process keeps no copy: the device's session lasts as long as the command holds it.
///
/// # Errors
///
/// [`Error::Platform`] if the command cannot be run.
pub fn pass_to(claim: Claim, command: &[OsString]) -> Result<Outcome, Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Outcome::Well) };
    let handle = claim.device().handle();
    let_inherit(handle)?;
    let channel = claim.let_inherit()?;
    let failed = || PlatformError::system(format!("cannot run {}", program.display()));
    let mut child = Command::new(program)
        .args(arguments)
        .env(DEVICE_VARIABLE, handle.raw().number().to_string())
        .envs(channel)
        .spawn()
        .map_err(failed())?;
    drop(claim);
    let status = child.wait().map_err(failed())?;
    // A command that was killed has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Outcome::Passed(code))
}
