//! What drivers leave behind, if they leave anything.

use crate::devices;
use crate::failure::Outcome;
use crate::huge_pages;
use crate::programs::wait_until;
use crate::reports;

/// What there was before a driver came.
pub(crate) struct Traces {
    huge_pages: usize,
    handles: u64,
}

impl Traces {
    /// What there is now.
    pub(crate) fn now() -> Outcome<Self> {
        Ok(Self { huge_pages: huge_pages::free()?, handles: reports::number("open handles")? })
    }

    /// Waits until all is as it was before: nothing is mapped, all memory is back, all handles are closed, and
    /// the devices are free.
    pub(crate) fn wait_for_return(&self) -> Outcome {
        wait_until("all domains are gone", || Ok(reports::domains()?.is_empty()))?;
        wait_until("all mappings are gone", || Ok(reports::mappings()?.is_empty()))?;
        wait_until("all memory is back", || Ok(huge_pages::free()? == self.huge_pages))?;
        let handles = || Ok(reports::number("open handles")? == self.handles);
        wait_until("all handles are closed", handles)?;
        wait_until("nothing awaits invalidation", || {
            Ok(reports::number("awaiting invalidation")? == 0)
        })?;
        for edu in devices::both_edus()? {
            let name = edu.name();
            let free = || Ok(reports::device(&name)?.state == "free");
            wait_until(&format!("{name} is free"), free)?;
        }
        Ok(())
    }
}
