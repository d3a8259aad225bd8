//! Passing the device on to another process.

use std::ffi::OsString;
use std::process::Command;

use libdma::Device;

use super::claim::HANDLE_VARIABLE;
use super::error::Error;
use super::platform;
use super::run::Outcome;

/// Runs a command that inherits the device's handle and finds its number in [`HANDLE_VARIABLE`]. This
/// process keeps no copy: the device's session lasts as long as the command holds it.
///
/// # Errors
///
/// [`Error::System`] if the command cannot be run.
pub fn pass_to(device: Device, command: &[OsString]) -> Result<Outcome, Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(Outcome::Well) };
    platform::let_inherit(device.handle())?;
    let failed = || Error::system(format!("cannot run {}", program.display()));
    let mut child = Command::new(program)
        .args(arguments)
        .env(HANDLE_VARIABLE, device.handle().raw().number().to_string())
        .spawn()
        .map_err(failed())?;
    drop(device);
    let status = child.wait().map_err(failed())?;
    // A command that was killed has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Outcome::Passed(code))
}
