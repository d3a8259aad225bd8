//! From the start to the end, on Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`keeper`] | watches over the process that serves |
//! | [`server`] | serves |
//! | [`name`] | the scheme's name: whether it can be had, and freeing it after a death |
//! | [`descriptor`] | which descriptors the next program gets |
//! | [`error`] | [`Error`]: why it ended |
//!
//! # The processes
//!
//! What init starts, or a person, is the keeper. It makes a memory object, starts the same program again to
//! serve from that memory, waits for its end, frees the scheme's name and starts the next one, which is handed the same
//! object with all that is in it, and an empty one for the case that it cannot adopt that. It does nothing
//! else, so that nothing but a signal ends it: [`keeping`](super::keeping) says what it decides by.
//!
//! Init starts it as a service of type `{ scheme = "iommu" }` and leaves a pipe on which it waits for a
//! descriptor of the scheme's root; it gives the scheme its name itself. The pipe goes to the first process
//! that serves. All others, and the first of a daemon that was started by hand, take the name themselves before
//! they touch any hardware; who opens it then waits until the units translate. By hand, one more process
//! stands before the keeper: the one that was started, which ends as soon as the daemon is ready or has
//! failed, with its exit code. Either way nobody can open a device before the units translate.
//!
//! # When one of them is killed
//!
//! The one that serves: the next one comes and adopts what it left. Devices go on with what they reach, and their drivers
//! have a while to come back for it. Descriptors of the dead fail (but a request that
//! was waiting for an answer at that moment waits for good: kernel 663e6641, `scheme/user.rs`, never wakes it). What cannot
//! be adopted is cut off, and frames that the units or devices could still reach stay out of use until the units have
//! forgotten them.
//! The keeper: the one that serves goes on, but if it dies, too, its name stays taken, and nobody starts it again.
//! Its memory is nobody's then and stays what it was ([`anchor`](crate::platform::redox::anchor)): the units go on by
//! its tables, and devices reach what they reached. An iommud started by hand frees the name and takes the units
//! over as from a firmware that had them translate: no device is ever open, and what the dead one had is lost until the machine is started anew.

pub mod descriptor;
pub mod error;
pub mod keeper;
pub mod name;
pub mod server;

use std::env;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub use error::Error;

use super::hand_over::{HAND_OVER_VARIABLE, HandOver};
use super::options::Options;
use super::policy;
use keeper::Starter;

/// The environment variable in which init names its pipe.
const INIT_VARIABLE: &str = "INIT_NOTIFY";

/// The environment variable in which the process that was started by hand names its pipe to the keeper.
const HAND_VARIABLE: &str = "IOMMUD_STARTER";

/// Serves, watches over who does, or checks a policy. The exit code.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn run(options: &Options) -> Result<u8, Error> {
    if let Some(file) = &options.check_policy {
        // Nobody is left to tell if the answer cannot be printed; the exit code says it, too.
        let _ = io::stdout().write_all(policy::check(file)?.as_bytes());
        return Ok(0);
    }
    if let Ok(value) = env::var(HAND_OVER_VARIABLE) {
        let left: HandOver = value.parse()?;
        return server::serve(options, &left).map(|()| 0);
    }
    let starter = match (inherited(INIT_VARIABLE)?, inherited(HAND_VARIABLE)?) {
        (Some(pipe), _) => Starter::Init(Some(pipe)),
        (None, Some(pipe)) => Starter::Hand(Some(PipeWriter::from(pipe))),
        (None, None) => return start_by_hand(),
    };
    keeper::keep(starter)
}

/// Starts the keeper in the background, and waits until the daemon is ready. The exit code.
fn start_by_hand() -> Result<u8, Error> {
    let (mut answer, tell) = io::pipe()?;
    let mut keeper = descriptor::this_program();
    keeper.env(HAND_VARIABLE, tell.as_raw_fd().to_string());
    descriptor::spawn(&mut keeper, &[tell.as_raw_fd() as usize])?;
    drop(tell);
    let mut code = [0];
    answer.read_exact(&mut code).map_err(|_| Error::NoAnswer)?;
    // Whatever it is, the one that served has said why.
    Ok(code[0])
}

/// Takes over the descriptor that an environment variable names.
fn inherited(variable: &'static str) -> Result<Option<OwnedFd>, Error> {
    let Ok(number) = env::var(variable) else { return Ok(None) };
    let number: u16 = number.parse().map_err(|_| Error::NoPipe(variable))?;
    descriptor::keep(number.into()).map_err(|_| Error::NoPipe(variable))?;
    // SAFETY: whoever started this process left it the descriptor, which is open and not used for anything
    // else: this is the only place that reads the variable.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number.into()) }))
}
