//! What requests to iommud take, beside messages with no work in them. `tests/run bench` boots it.

use agent::requests;

use crate::devices;
use crate::failure::{Failure, Outcome};
use crate::messages;
use crate::other::open;
use crate::programs::start_iommud;

/// The word by which this program is told to count.
pub(crate) const WORD: &str = "bench";

/// What is said when all has been told.
pub(crate) const DONE: &str = "bench done";

/// Counts, and tells it on standard output.
pub(crate) fn run() -> Outcome {
    let tell = |line| println!("{line}");
    let iommud = start_iommud()?;
    let function = devices::edus()?.into_iter().next();
    let device = open(&function.ok_or(Failure("there is no edu device".into()))?)?;
    requests::measure(&device, tell)?;
    drop((device, iommud));
    messages::measure(tell)?;
    println!("{DONE}");
    Ok(())
}
