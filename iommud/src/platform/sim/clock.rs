//! Real time, or a test's.

use std::time::{Duration, Instant};

/// Nanoseconds since the platform was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When real time was started, or `None` if it stands still.
    start: Option<Instant>,
    added: Duration,
}

impl Clock {
    /// A clock that runs.
    pub(super) fn real() -> Self {
        Self { start: Some(Instant::now()), added: Duration::ZERO }
    }

    /// A clock that moves only when told.
    pub(super) fn manual() -> Self {
        Self { start: None, added: Duration::ZERO }
    }

    /// Moves the clock forward.
    pub(super) fn advance(&mut self, by: Duration) {
        self.added = self.added.saturating_add(by);
    }

    /// The time now.
    pub(super) fn now(&self) -> u64 {
        let run = self.start.map_or(Duration::ZERO, |start| start.elapsed());
        run.saturating_add(self.added).as_nanos().try_into().unwrap_or(u64::MAX)
    }
}
