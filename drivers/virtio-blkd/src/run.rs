//! From the command line to the exit code.

use std::io::{Read, Write};

use driver_platform::report_ready;

use super::claim::Claim;
use super::error::Error;
use super::hal::{Astray, DiskHal};
use super::jobs;
use super::options::{Job, Options};

/// Does what the command line says.
pub(crate) fn run(
    options: &Options,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let claim = Claim::new(options.device)?;
    let device = claim.device().clone();
    if let Job::Rogue { sector, address } = options.job {
        Astray::lead_to(address);
        let disk = claim.drive::<Astray>()?;
        report_ready()?;
        return jobs::rogue(disk, &device, sector, address, out);
    }
    let mut disk = claim.drive::<DiskHal>()?;
    report_ready()?;
    match options.job {
        Job::Info => jobs::info(&disk, &device, out),
        Job::Read { sector, count } => jobs::read(&mut disk, sector, count, out),
        Job::Write { sector } => jobs::write(&mut disk, sector, input),
        Job::Hold => jobs::hold(&mut disk, out).map(|never| match never {}),
        Job::Rogue { .. } => Ok(()),
    }
}
