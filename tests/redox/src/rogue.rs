//! A device driven past iommud and libdma, as any process could that reaches its registers.

use std::time::Instant;

use agent::bench::Bench;
use agent::failure::{Failure, Outcome, require};
use agent::programs::PATIENCE;
use dma_types::Iova;
use edud::daemon::function;
use edud::{Direction, Edu, MappedBar};

use crate::driving::LENGTH;

const PAGE: usize = 4096;

/// What is in memory that nobody is to write to.
const INTACT: u8 = b'!';

/// A device that nobody holds at iommud.
pub(crate) struct Rogue(Edu<MappedBar>);

impl Rogue {
    /// Takes the device at its registers alone.
    pub(crate) fn of(bench: &Bench) -> Outcome<Self> {
        let address =
            bench.device.parse().map_err(|_| Failure(format!("{} is where?", bench.device)))?;
        Ok(Self(Edu::new(function::switch_on(function::find(Some(address))?)?)?))
    }

    /// Lets it write what it has.
    pub(crate) fn write(&mut self, place: u64) -> Outcome {
        let end = Instant::now() + PATIENCE;
        let expired = || Instant::now() > end;
        self.0.wait(expired)?;
        let bytes = LENGTH as u64;
        Ok(self.0.transfer(Direction::FromDevice, Iova::new(place), 0, bytes, expired)?)
    }
}

/// Memory of this process that is no device's.
pub(crate) struct Canary {
    memory: Vec<u8>,
    page: usize,
}

impl Canary {
    /// A page of it, and of what is around it.
    pub(crate) fn new() -> Self {
        let memory = vec![INTACT; 2 * PAGE];
        let page = memory.as_ptr().addr().next_multiple_of(PAGE);
        Self { memory, page }
    }

    /// Where in physical memory it is now.
    pub(crate) fn place(&self) -> Outcome<u64> {
        physical(self.page)
    }

    /// That nobody wrote to it.
    pub(crate) fn check(&self) -> Outcome {
        let changed = self.memory.iter().position(|byte| *byte != INTACT);
        require!(changed.is_none(), "a device that nobody holds wrote at byte {changed:?}");
        Ok(())
    }
}

/// Where in physical memory what is at this address of the process's is, as the kernel tells (663e6641, `src/scheme/memory.rs`).
#[cfg(target_os = "redox")]
fn physical(address: usize) -> Outcome<u64> {
    use libredox::Fd;
    use libredox::flag::O_CLOEXEC;
    use syscall::CallFlags;

    let translation = Fd::open("/scheme/memory/translation", O_CLOEXEC, 0)?;
    let mut word = address.to_ne_bytes();
    translation.call_rw(&mut word, CallFlags::empty(), &[])?;
    Ok(usize::from_ne_bytes(word) as u64)
}

/// So that the rest is checked on other systems, too.
#[cfg(not(target_os = "redox"))]
fn physical(_: usize) -> Outcome<u64> {
    Err(Failure("the kernel tells where memory is on Redox alone".into()))
}
