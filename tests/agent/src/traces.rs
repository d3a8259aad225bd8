//! What drivers leave behind at iommud, if they leave anything.

use crate::failure::Outcome;
use crate::programs::wait_until;
use crate::reports::{self, Device, Mapping};

/// What there was before a driver came.
///
/// Drivers of other devices may be at work all the while; they are taken to have mapped what they need.
pub struct Traces {
    mappings: Vec<Mapping>,
    domains: usize,
    handles: u64,
    /// Each device's name and state.
    states: Vec<(String, String)>,
}

impl Traces {
    /// What there is now.
    pub fn now() -> Outcome<Self> {
        let (mappings, domains) = (reports::mappings()?, reports::domains()?.len());
        Ok(Self { mappings, domains, handles: open_handles()?, states: states()? })
    }

    /// Waits until all is as it was before: nothing is mapped that was not, all handles are closed, and no device is
    /// held that was not.
    pub fn wait_for_return(&self) -> Outcome {
        wait_until("all domains are gone", || Ok(reports::domains()?.len() == self.domains))?;
        wait_until("all mappings are gone", || Ok(reports::mappings()? == self.mappings))?;
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
