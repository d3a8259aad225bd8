//! From the command line to the driver.

use std::env;
use std::fs::File;
use std::io;
use std::path::Path;

use libdma::handle::{DEVICE_VARIABLE, Handle, RESUME_VARIABLE};
use pcid_channel::{Inherited, READY_VARIABLE, ask};

use super::{broker, descriptors, device, exec, namespace};
use crate::allowed::Allowed;
use crate::error::Error;
use crate::options::Options;

/// The value of [`DEVICE_VARIABLE`] for a device that is not confined.
const UNCONFINED: &str = "none";

/// What a driver is told by this program alone.
const OWN_VARIABLES: [&str; 2] = [DEVICE_VARIABLE, RESUME_VARIABLE];

/// Starts the driver in this process's place; or serves its namespace, if this process is there for that.
///
/// # Errors
///
/// Why the driver could not be started.
pub fn run(options: &Options) -> Result<(), Error> {
    if let Some(order) = broker::Order::find() {
        return broker::serve(order, options).map_err(Error::Namespace);
    }
    descriptors::close_all_on_exec();
    let mut channel = Inherited::find().ok_or(Error::NoChannel)?;
    let function = ask(&mut channel)?.address;
    let device = if options.without_iommu { None } else { Some(device::open(function)?) };
    let program = options.program();
    let image = exec::open(&program).map_err(|error| cannot_run(&program, error))?;
    namespace::enter(&Allowed::new(options, function))?;
    let device = match device {
        Some(device) => Some((device, namespace::folder().map_err(Error::Namespace)?)),
        None => None,
    };
    let failed = start(options, &program, &image, channel, device.as_ref());
    Err(cannot_run(&program, failed))
}

/// Runs the driver, with its device and where the session of that is resumed. Comes back only if that failed.
fn start(
    options: &Options,
    program: &Path,
    image: &File,
    channel: Inherited,
    device: Option<&(Handle, usize)>,
) -> io::Error {
    let mut variables: Vec<_> =
        env::vars_os().filter(|(name, _)| !OWN_VARIABLES.iter().any(|own| name == own)).collect();
    let handle = device.map(|(handle, _)| handle.raw().number() as usize);
    let folder = device.map(|(_, folder)| *folder);
    let value = handle.map_or(UNCONFINED.to_string(), |number| number.to_string());
    variables.push((DEVICE_VARIABLE.into(), value.into()));
    variables.extend(folder.map(|folder| (RESUME_VARIABLE.into(), folder.to_string().into())));
    let ready = env::var(READY_VARIABLE).ok().and_then(|number| number.parse().ok());
    for descriptor in [Some(channel.descriptor()), handle, folder, ready].into_iter().flatten() {
        if let Err(error) = descriptors::leave_open(descriptor) {
            return error;
        }
    }
    // A program is told its own path, as pcid-spawner would have.
    let mut words = options.command.clone();
    if let Some(first) = words.first_mut() {
        *first = program.into();
    }
    exec::run(image, &words, &variables)
}

fn cannot_run(program: &Path, error: io::Error) -> Error {
    Error::Program { program: program.display().to_string(), error }
}
