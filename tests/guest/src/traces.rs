//! What drivers leave behind, if they leave anything.

use crate::failure::Outcome;
use crate::huge_pages;
use crate::programs::wait_until;
use crate::reports::{self, Device};

/// What there was before a driver came.
pub(crate) struct Traces {
    huge_pages: usize,
    handles: u64,
    /// Each device's name and state.
    states: Vec<(String, String)>,
}

impl Traces {
    /// What there is now.
    pub(crate) fn now() -> Outcome<Self> {
        let (huge_pages, handles) = (huge_pages::free()?, open_handles()?);
        Ok(Self { huge_pages, handles, states: states()? })
    }

    /// Waits until all is as it was before: nothing is mapped, all memory is back, all handles are closed, and
    /// no device is held that was not.
    pub(crate) fn wait_for_return(&self) -> Outcome {
        wait_until("all domains are gone", || Ok(reports::domains()?.is_empty()))?;
        wait_until("all mappings are gone", || Ok(reports::mappings()?.is_empty()))?;
        wait_until("all memory is back", || Ok(huge_pages::free()? == self.huge_pages))?;
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
