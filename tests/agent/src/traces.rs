//! What drivers leave behind at iommud, if they leave anything.

use crate::failure::Outcome;
use crate::programs::wait_until;
use crate::reports::{self, Device};

/// What there was before a driver came.
pub struct Traces {
    handles: u64,
    /// Each device's name and state.
    states: Vec<(String, String)>,
}

impl Traces {
    /// What there is now.
    pub fn now() -> Outcome<Self> {
        Ok(Self { handles: open_handles()?, states: states()? })
    }

    /// Waits until all is as it was before: nothing is mapped, all handles are closed, and no device is held that was
    /// not.
    pub fn wait_for_return(&self) -> Outcome {
        wait_until("all domains are gone", || Ok(reports::domains()?.is_empty()))?;
        wait_until("all mappings are gone", || Ok(reports::mappings()?.is_empty()))?;
        wait_until("all handles are closed", || Ok(open_handles()? == self.handles))?;
        wait_until("all devices are as they were", || Ok(states()? == self.states))
    }
}

fn states() -> Outcome<Vec<(String, String)>> {
    let devices: Vec<Device> = reports::rows("devices")?;
    Ok(devices.into_iter().map(|it| (it.device, it.state)).collect())
}

/// How many handles are open, as `config` has it.
fn open_handles() -> Outcome<u64> {
    Ok(reports::setting("open handles")?.parse()?)
}
