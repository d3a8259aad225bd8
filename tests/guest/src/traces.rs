//! What drivers leave behind, if they leave anything.

use agent::traces::Traces as AtIommud;

use crate::failure::Outcome;
use crate::huge_pages;
use crate::programs::wait_until;

/// What there was before a driver came.
pub(crate) struct Traces {
    huge_pages: usize,
    at_iommud: AtIommud,
}

impl Traces {
    /// What there is now.
    pub(crate) fn now() -> Outcome<Self> {
        Ok(Self { huge_pages: huge_pages::free()?, at_iommud: AtIommud::now()? })
    }

    /// Waits until all is as it was before, at iommud and in the system: all memory is back.
    pub(crate) fn wait_for_return(&self) -> Outcome {
        self.at_iommud.wait_for_return()?;
        wait_until("all memory is back", || Ok(huge_pages::free()? == self.huge_pages))
    }
}
