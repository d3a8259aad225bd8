//! Asking iommud over and over, while the device is at work for the main job.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dma_types::PAGE_SIZE;
use libdma::{Access, Buffer, Device, ForeignMemory, MapRequest};

use super::error::Error;

/// How much memory of its own the process has mapped and unmapped.
const BYTES: usize = 2 * PAGE_SIZE as usize;

/// A request that takes longer has found no iommud, and waited for the next.
const LONG: Duration = Duration::from_millis(100);

/// How long it does not ask in between. Redox's kernel takes no account of the time of who waits before its slice is over (663e6641,
/// `context/switch.rs`, `select_next_context`): who asks without pause, and who answers, keep a processor from all others.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that asks. It ends when this is dropped.
pub struct Asking {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    waited: AtomicU64,
    is_over: AtomicBool,
}

impl Asking {
    /// Starts to ask for what this device may have.
    ///
    /// # Errors
    ///
    /// [`Error::Iommud`].
    pub fn begin(device: &Device) -> Result<Self, Error> {
        let memory = ForeignMemory::new(BYTES)?;
        memory.write(0, &pattern())?;
        let foreign = device.register(memory, None, "edud asks").map_err(libdma::Error::from)?;
        let (counts, device) = (Arc::new(Counts::default()), device.clone());
        let counting = counts.clone();
        let thread = thread::spawn(move || {
            while !counting.is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                ask(&device, &foreign)?;
                counting.asked.fetch_add(1, Ordering::Relaxed);
                let has_waited = began.elapsed() > LONG;
                counting.waited.fetch_add(has_waited.into(), Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Self { counts, thread: Some(thread) })
    }

    /// Says on `out` how often it has asked, and how often that took long. Why it does not go on, if it has ended.
    ///
    /// # Errors
    ///
    /// Those of asking.
    pub fn tell(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        if let Some(ended) = self.thread.take_if(|thread| thread.is_finished()) {
            ended.join().unwrap_or(Err(libdma::Error::DaemonGone.into()))?;
        }
        let Counts { asked, waited, .. } = &*self.counts;
        let (asked, waited) = (asked.load(Ordering::Relaxed), waited.load(Ordering::Relaxed));
        writeln!(out, "asked {asked} times, waited {waited} times")?;
        Ok(())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.counts.is_over.store(true, Ordering::Relaxed);
    }
}

/// Has memory of its own and of iommud's mapped, seen to be what it should, and unmapped.
fn ask(device: &Device, foreign: &Buffer) -> Result<(), Error> {
    let piece = |page: u64, access| MapRequest {
        buffer: foreign,
        offset: page * PAGE_SIZE,
        bytes: PAGE_SIZE,
        access,
    };
    let mapped = device.map(&[piece(0, Access::Read), piece(1, Access::Write)])?;
    let buffer = device.allocate(PAGE_SIZE, Some(Access::ReadWrite), "edud asked")?;
    let iova = buffer.iova().ok_or(libdma::Error::NotMapped)?;
    if let Some(index) = first_other(&buffer, &[0; BYTES / 2])? {
        return Err(Error::Corrupt { index, iova, expected: 0, found: u64::MAX });
    }
    drop(buffer);
    device.unmap(&mapped)?;
    let iova = mapped.first().map(|it| it.iova()).unwrap_or_default();
    match first_other(foreign, &pattern())? {
        None => Ok(()),
        Some(index) => Err(Error::Corrupt { index, iova, expected: 0, found: u64::MAX }),
    }
}

/// Where in a buffer the first byte is that is not as expected.
fn first_other(buffer: &Buffer, expected: &[u8]) -> Result<Option<usize>, Error> {
    let mut found = vec![0; expected.len()];
    buffer.read(0, &mut found)?;
    Ok(found.iter().zip(expected).position(|(found, expected)| found != expected))
}

/// What is in memory that no device ever writes to.
fn pattern() -> [u8; BYTES] {
    core::array::from_fn(|index| (index % 251) as u8 + 1)
}
