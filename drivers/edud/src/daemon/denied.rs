//! What the device's own handle tells of blocked accesses.

use std::io::Write;
use std::time::Duration;

use libdma::{Device, Handle};

use super::error::Error;

/// How long after a blocked access to wait for its fault: iommud looks for faults many times in it.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Waits until the device's handle is readable, as a driver would in its event loop, and prints what
/// happened to the device. Some IOMMUs record nothing (QEMU 7.2's AMD-Vi), and then it says so.
///
/// # Errors
///
/// [`Error::Iommud`], [`Error::Platform`] by what `wait_readable` fails with, [`Error::Report`].
pub fn report(
    device: &Device,
    wait_readable: impl Fn(&Handle, Duration) -> Result<bool, driver_platform::Error>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if !wait_readable(device.handle(), PATIENCE)? {
        writeln!(out, "the device's handle tells of no fault: this IOMMU has recorded none")?;
        return Ok(());
    }
    let read = device.events()?;
    if read.dropped > 0 {
        writeln!(
            out,
            "the device's handle tells of {} more blocked accesses by number alone",
            read.dropped
        )?;
    }
    for event in read {
        writeln!(out, "the device's handle tells: {event}")?;
    }
    Ok(())
}
