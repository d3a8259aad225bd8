//! The processes that there are, by Redox's own list.

use std::fs;

use agent::failure::{Failure, Outcome};
use agent::programs::{run, wait_until};
use agent::signal::{Signal, send};

/// Where the kernel lists its contexts: a head, then a line for each, with the process's number first and its program
/// last (kernel `src/scheme/sys/context.rs`).
const LIST: &str = "/scheme/sys/context";

/// What cases start, and may leave running when they fail.
const DRIVERS: [&str; 3] = ["edud", "iommuctl", "iommu-run"];

/// The processes at some time: each one's number and program.
pub(crate) struct Processes(Vec<(u32, String)>);

impl Processes {
    /// Those of now. None where the list cannot be had.
    pub(crate) fn now() -> Self {
        Self(fs::read_to_string(LIST).unwrap_or_default().lines().filter_map(parse).collect())
    }

    /// The numbers of those that run this program.
    pub(crate) fn of(&self, program: &str) -> Vec<u32> {
        let mut found: Vec<_> =
            self.0.iter().filter(|(_, name)| name == program).map(|(number, _)| *number).collect();
        // Each thread has a line.
        found.dedup();
        found
    }

    /// How many threads the process of this number has, those included that were never started.
    pub(crate) fn threads(&self, number: u32) -> usize {
        self.0.iter().filter(|(of, _)| *of == number).count()
    }

    /// Kills the drivers and tools that have come since.
    pub(crate) fn end_drivers_since(&self) {
        let now = Self::now();
        for program in DRIVERS {
            let before = self.of(program);
            for number in now.of(program).into_iter().filter(|number| !before.contains(number)) {
                // It may have ended meanwhile, which is what is wanted.
                let _ = send(number, Signal::Kill);
            }
        }
    }
}

/// A line of the list. Process 0 is the kernel.
fn parse(line: &str) -> Option<(u32, String)> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number > 0)?;
    let program = words.last()?.rsplit('/').next()?;
    Some((number, program.to_owned()))
}

/// The keeper, and the process that serves, which the keeper started.
pub(crate) fn keeper_and_server() -> Outcome<[u32; 2]> {
    let all = Processes::now().of("iommud");
    match all[..] {
        [keeper, .., last] => Ok([keeper, last]),
        _ => {
            Err(Failure(format!("iommud are the processes {all:?}, and not a keeper and another")))
        }
    }
}

/// Waits until another process than this serves.
pub(crate) fn another_serves(than: u32) -> Outcome {
    wait_until("another iommud serves", || {
        let is_there = keeper_and_server().is_ok_and(|[_, another]| another != than);
        Ok(is_there && run("iommuctl", &["units"])?.code == Some(0))
    })
}
