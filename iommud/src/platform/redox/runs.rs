//! Clients' buffers.
//!
//! A run of up to 4 MiB is some pages of a chunk that it shares with others: it costs the kernel nothing, and is
//! contiguous in physical memory. A larger one, or one for which there is no chunk, is a range of this process's
//! addresses filled with the largest pieces that are to be had; those go back to the kernel with it.
//!
//! Every run is write-back, in this process and in its clients. Neither has another way to memory that outlives this
//! process (kernel 663e6641, `src/context/memory.rs`): what comes out of the memory object is mapped by `Grant::borrow`
//! and `correct_inner`, which know no cache type, whatever the object's own entries say; a client's mapping
//! (`Grant::borrow_fmap`) is given the type of this process's entry, which is such a borrow; and `physical@wc` refuses
//! RAM that the allocator owns (`Grant::physmap`).
//!
//! Others' runs lie beside a run that shares its chunk, and the kernel lets a client map whatever follows the
//! address that it is given. So offset and length of each mapping are checked before that
//! ([`MapRequest::check`] and the service's grant). No client sees a run that is free: the service frees it
//! after its handle is closed, and the kernel closes a handle when the last of its descriptors and the last
//! of its mappings are gone (a mapping holds the description that it was made from).
//!
//! [`MapRequest::check`]: crate::transport::scheme::request::MapRequest::check

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};
use iommu_engine::segments::cut;

use libredox::Fd;

use super::foreign::{self, ForeignError};
use super::memory::{Chunk, Memory};
use super::page_pool::{PagePool, Pages};
use super::plain::Unfit;
use crate::platform::pieces::{LARGEST_PIECE, append, next_piece};

/// Memory for clients' buffers.
pub struct RunArena {
    memory: Rc<Memory>,
    pool: PagePool,
    runs: BTreeMap<RunId, Run>,
    next: u64,
    /// How often a run of its own pieces came or went.
    changes: u64,
}

struct Run {
    start: NonNull<u8>,
    memory: RunMemory,
    segments: Vec<Segment>,
}

/// What a run is made of.
enum RunMemory {
    /// Pages of the pool.
    Pool,
    /// Pieces of its own, which it keeps mapped, one after the other.
    Own(Vec<Chunk>),
    /// Some of another run's, which is never freed.
    Part,
}

impl RunArena {
    /// An arena without runs.
    pub fn new(memory: Rc<Memory>) -> Self {
        let pool = PagePool::new(memory.clone());
        Self { memory, pool, runs: BTreeMap::new(), next: 1, changes: 0 }
    }

    /// Where a run is in this process: what a client's `mmap` of it is answered with. The kernel asks for
    /// no length there, so whoever answers must have checked that offset and length lie in the run.
    pub fn address(&self, run: RunId) -> Option<CpuAddr> {
        self.runs.get(&run).map(|run| run.start.into())
    }

    /// Where all its memory is, given out or not.
    pub fn places(&self) -> impl Iterator<Item = Segment> {
        let of_their_own = self.runs.values().filter(|run| matches!(run.memory, RunMemory::Own(_)));
        let pieces = of_their_own.flat_map(|run| run.segments.iter().copied());
        self.pool.chunks().chain(pieces)
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes + self.pool.changes()
    }

    /// A run that is contiguous in physical memory, of at most [`LARGEST_PIECE`], and starts at a multiple of its
    /// length rounded up to a power of two.
    fn share(&mut self, bytes: u64) -> Option<Run> {
        if bytes > LARGEST_PIECE {
            return None;
        }
        self.pool.take(usize::try_from(bytes / PAGE_SIZE).ok()?).map(|pages| shared(pages, bytes))
    }

    /// A run of its own pieces: reserves the addresses, then fills them from the start.
    fn build(&mut self, bytes: u64) -> Option<Run> {
        let mut rest = self.memory.reserve(usize::try_from(bytes).ok()?).ok()?;
        let start = rest.start();
        let (mut pieces, mut segments) = (Vec::new(), Vec::new());
        let mut limit = LARGEST_PIECE;
        while rest.bytes() != 0 {
            let bytes = next_piece(rest.bytes() as u64, limit)?;
            match self.memory.fill(&mut rest, bytes as usize).ok()? {
                Some((piece, physical)) => {
                    append(&mut segments, physical, bytes);
                    pieces.push(piece);
                }
                None => limit = bytes / 2,
            }
        }
        self.changes += 1;
        Some(Run { start, memory: RunMemory::Own(pieces), segments })
    }

    /// A run of memory that a client supplies: `bytes` at `address` in what it sent.
    ///
    /// # Errors
    ///
    /// [`ForeignError`]; the memory is the client's again then.
    pub fn take_over(
        &mut self,
        sent: &Fd,
        address: u64,
        bytes: u64,
    ) -> Result<RunId, ForeignError> {
        let address = usize::try_from(address).map_err(|_| ForeignError::from(Unfit::TooShort))?;
        let length = usize::try_from(bytes).map_err(|_| ForeignError::from(Unfit::TooShort))?;
        let (chunk, segments) = foreign::take_over(&self.memory, sent, address, length)?;
        self.changes += 1;
        let start = chunk.start();
        Ok(self.add(Run { start, memory: RunMemory::Own(vec![chunk]), segments }))
    }

    /// Moves such a run back to where it came from. What cannot be moved back is given up.
    pub fn give_back(&mut self, run: RunId, sent: &Fd, address: u64) {
        let Some(Run { memory: RunMemory::Own(pieces), .. }) = self.runs.remove(&run) else {
            return;
        };
        self.changes += 1;
        for piece in pieces {
            // An address that it was taken from.
            let _ = self.memory.return_to(piece, sent, address as usize);
        }
    }

    fn add(&mut self, run: Run) -> RunId {
        let id = RunId(self.next);
        self.next += 1;
        self.runs.insert(id, run);
        id
    }
}

/// A run of pages of the pool.
fn shared(pages: Pages, bytes: u64) -> Run {
    let segments = vec![Segment { start: pages.physical, bytes }];
    Run { start: pages.start.cast(), memory: RunMemory::Pool, segments }
}

impl BufferRuns for RunArena {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let shared = self.share(bytes);
        let run = shared.or_else(|| self.build(bytes))?;
        Some(self.add(run))
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        if bytes > LARGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        let count = (bytes / PAGE_SIZE) as usize;
        let pages = if limit.get() == u64::MAX {
            self.pool.take(count).ok_or(ContiguityError::OutOfMemory)?
        } else {
            self.pool.take_below(count, limit)?
        };
        Ok(self.add(shared(pages, bytes)))
    }

    fn longest_piece(&self) -> u64 {
        LARGEST_PIECE
    }

    fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
        let run = self.build(bytes)?;
        Some(self.add(run))
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        let whole = self.runs.get(&whole)?;
        let mut segments = Vec::new();
        cut(&whole.segments, offset, bytes, &mut segments)?;
        // SAFETY: `cut` found the part in the run, which is one mapping.
        let start = unsafe { whole.start.add(usize::try_from(offset).ok()?) };
        for index in 0..bytes as usize / size_of::<u64>() {
            // SAFETY: as above. The run keeps its memory mapped as long as it is in the book; the part is aligned to pages, and
            // here it is only ever reached through atomics.
            unsafe { start.cast::<AtomicU64>().add(index).as_ref() }.store(0, Ordering::Relaxed);
        }
        Some(self.add(Run { start, memory: RunMemory::Part, segments }))
    }

    fn free_run(&mut self, run: RunId) {
        let Some(run) = self.runs.remove(&run) else { return };
        match run.memory {
            RunMemory::Own(_) => self.changes += 1,
            RunMemory::Part => {}
            RunMemory::Pool => {
                if let Some(pages) = run.segments.first() {
                    self.pool.give_back(pages.start, (pages.bytes / PAGE_SIZE) as usize);
                }
            }
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
