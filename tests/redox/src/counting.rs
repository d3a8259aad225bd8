//! What requests to iommud take, beside calls with no work in them. No case does this: it is for figures, on a machine
//! with QEMU's `-icount shift=0,sleep=off`, where they are instructions.

use agent::bench::Bench;
use agent::failure::{Failure, Outcome};
use agent::requests;
use driver_platform::connect;
use libdma::Device;

use crate::console::say;
use crate::empty;
use crate::machine::Machine;

/// The first argument that asks for this.
pub(crate) const BENCH: &str = "bench";

/// Counts, and tells it on the console.
pub(crate) fn run() -> Outcome {
    empty::measure(say)?;
    let Bench { device: name, .. } = Machine::bench()?;
    let address = name.parse().map_err(|_| Failure(format!("{name} is no PCI address")))?;
    let device = Device::open(connect()?, address)?;
    requests::measure(&device, say)?;
    say("bench done");
    Ok(())
}
