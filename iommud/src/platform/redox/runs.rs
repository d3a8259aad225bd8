//! Clients' buffers.
//!
//! A run of up to 4 MiB is some pages of a chunk that it shares with others: it costs the kernel nothing, and is
//! contiguous in physical memory. A larger one, or one for which there is no chunk, is a range of this process's
//! addresses filled with the largest pieces that are to be had; those go back to the kernel with it.
//!
//! Others' runs lie beside a run that shares its chunk, and the kernel lets a client map whatever follows the
//! address that it is given. So offset and length of each mapping are checked before that
//! ([`MapRequest::check`] and the service's grant). No client sees a run that is free: the service frees it
//! after its handle is closed, and the kernel closes a handle when the last of its descriptors and the last
//! of its mappings are gone (a mapping holds the description that it was made from).
//!
//! [`MapRequest::check`]: crate::transport::scheme::request::MapRequest::check

use std::collections::BTreeMap;
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};

use libredox::Fd;

use super::foreign::{self, ForeignError};
use super::memory::{Chunk, Memory};
use super::page_pool::PagePool;
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
    start: CpuAddr,
    /// What it is made of and keeps mapped, one after the other; empty for pages of the pool.
    pieces: Vec<Chunk>,
    segments: Vec<Segment>,
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
        self.runs.get(&run).map(|run| run.start)
    }

    /// Where all its memory is, given out or not.
    pub fn places(&self) -> impl Iterator<Item = Segment> {
        let of_their_own = self.runs.values().filter(|run| !run.pieces.is_empty());
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
        let pages = self.pool.take(usize::try_from(bytes / PAGE_SIZE).ok()?)?;
        let segments = vec![Segment { start: pages.physical, bytes }];
        Some(Run { start: pages.start.cast::<u8>().into(), pieces: Vec::new(), segments })
    }

    /// A run of its own pieces: reserves the addresses, then fills them from the start.
    fn build(&mut self, bytes: u64) -> Option<Run> {
        let mut rest = self.memory.reserve(usize::try_from(bytes).ok()?).ok()?;
        let start = rest.start().into();
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
        Some(Run { start, pieces, segments })
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
        let start = chunk.start().into();
        Ok(self.add(Run { start, pieces: vec![chunk], segments }))
    }

    /// Moves such a run back to where it came from. What cannot be moved back is given up.
    pub fn give_back(&mut self, run: RunId, sent: &Fd, address: u64) {
        let Some(Run { pieces, .. }) = self.runs.remove(&run) else { return };
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

impl BufferRuns for RunArena {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || bytes % PAGE_SIZE != 0 {
            return None;
        }
        let shared = self.share(bytes);
        let run = shared.or_else(|| self.build(bytes))?;
        Some(self.add(run))
    }

    fn alloc_contiguous_run(&mut self, bytes: u64) -> Result<RunId, ContiguityError> {
        if bytes > LARGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        self.share(bytes).map(|run| self.add(run)).ok_or(ContiguityError::OutOfMemory)
    }

    fn free_run(&mut self, run: RunId) {
        let Some(run) = self.runs.remove(&run) else { return };
        if !run.pieces.is_empty() {
            self.changes += 1;
        } else if let Some(pages) = run.segments.first() {
            self.pool.give_back(pages.start, (pages.bytes / PAGE_SIZE) as usize);
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
