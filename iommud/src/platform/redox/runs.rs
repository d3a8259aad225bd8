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
//! of its mappings are gone (a mapping holds the description that it was made from). A hostile client can have the kernel miss a
//! mapping that was made of a mapping: see what THREATS.md says of what iommud is told.
//!
//! Of handles that died with a process before this one nobody hears that they are closed, and a client that does not come
//! back may have mapped what was its own for as long as it lives (rule R8). So no memory of that process's chunks is given
//! out here again: a chunk goes back to the kernel when no run is in it any more. The kernel counts for each frame who has
//! mapped it (`src/context/memory.rs`: `borrow_fmap` adds one, `handle_free_action` gives a frame back with the last), and
//! gives it to nobody before.
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

use super::area::Region;
use super::foreign::{self, ForeignError};
use super::memory::{Chunk, Left, Memory};
use super::page_pool::{PagePool, Pages};
use super::plain::Unfit;
use crate::platform::pieces::{LARGEST_PIECE, append, next_piece};

/// Memory for clients' buffers.
pub struct RunArena {
    memory: Rc<Memory>,
    pool: PagePool,
    runs: BTreeMap<RunId, Run>,
    /// Pieces of a process before this one, by where they are in this one, as long as nobody knows what of it is in use.
    inherited: BTreeMap<usize, Left>,
    /// Runs of that process that are in use.
    kept: Vec<RunId>,
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

/// Kinds of runs, as their places tell them.
const IN_POOL: u64 = 0;
const OF_ITS_OWN: u64 = 1;
const A_PART: u64 = 2;

impl RunArena {
    /// An arena without runs.
    pub fn new(memory: Rc<Memory>) -> Self {
        let pool = PagePool::new(memory.clone(), Region::Pool);
        let (runs, inherited) = (BTreeMap::new(), BTreeMap::new());
        Self { memory, pool, runs, inherited, kept: Vec::new(), next: 1, changes: 0 }
    }

    /// Adds memory of a process before this one, of which nobody knows yet whether it is in use. It is given back if it is
    /// not what it should be.
    pub fn inherit(&mut self, left: Left) -> Result<(), Left> {
        self.changes += 1;
        match left.region {
            Region::Pool => self.pool.inherit(left).map(drop),
            _ => {
                self.inherited.insert(left.chunk.start().addr().get(), left);
                Ok(())
            }
        }
    }

    /// Where a run is, in words by which [`keep`](Self::keep) finds it again.
    pub fn place(&self, run: RunId) -> Option<[u64; 3]> {
        let run = self.runs.get(&run)?;
        let bytes = run.segments.iter().map(|segment| segment.bytes).sum();
        let kind = match run.memory {
            RunMemory::Pool => IN_POOL,
            RunMemory::Own(_) => OF_ITS_OWN,
            RunMemory::Part => A_PART,
        };
        Some([kind, run.start.addr().get() as u64, bytes])
    }

    /// Notes that a run of a process before this one is in use. `false` if it is nowhere, or was noted before.
    pub fn keep(&mut self, id: RunId, [kind, start, bytes]: [u64; 3]) -> bool {
        let is_whole = bytes != 0 && bytes.is_multiple_of(PAGE_SIZE);
        let Ok(start) = usize::try_from(start) else { return false };
        if !is_whole || !start.is_multiple_of(PAGE_SIZE as usize) || self.runs.contains_key(&id) {
            return false;
        }
        let found = match kind {
            IN_POOL => self.keep_shared(start, bytes),
            OF_ITS_OWN => self.keep_own(start, bytes),
            A_PART => self.find_part(start, bytes),
            _ => None,
        };
        let Some(run) = found else { return false };
        self.next = self.next.max(id.0.saturating_add(1));
        self.runs.insert(id, run);
        self.kept.push(id);
        true
    }

    fn keep_shared(&mut self, start: usize, bytes: u64) -> Option<Run> {
        let pages = self.pool.inherited_at(start, bytes)?;
        let count = usize::try_from(bytes / PAGE_SIZE).ok()?;
        self.pool.keep(pages.physical, count).then(|| shared(pages, bytes))
    }

    /// The pieces of a run that lie one behind the other.
    fn keep_own(&mut self, start: usize, bytes: u64) -> Option<Run> {
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        let mut at = start;
        for (place, left) in self.inherited.range(start..end) {
            if *place != at {
                return None;
            }
            at = place.checked_add(left.chunk.bytes())?;
        }
        if at != end {
            return None;
        }
        let rest = self.inherited.split_off(&start);
        let (of_it, others) = rest.into_iter().partition(|(place, _)| *place < end);
        let (of_it, mut others): (BTreeMap<_, _>, BTreeMap<_, _>) = (of_it, others);
        self.inherited.append(&mut others);
        let (mut pieces, mut segments) = (Vec::new(), Vec::new());
        for left in of_it.into_values() {
            left.segments.iter().for_each(|it| append(&mut segments, it.start, it.bytes));
            pieces.push(left.chunk);
        }
        let start = pieces.first()?.start();
        Some(Run { start, memory: RunMemory::Own(pieces), segments })
    }

    /// A part of a run that was noted before.
    fn find_part(&self, start: usize, bytes: u64) -> Option<Run> {
        let of_it = |whole: &Run| {
            let RunMemory::Own(_) = whole.memory else { return None };
            let offset = start.checked_sub(whole.start.addr().get())?;
            let mut segments = Vec::new();
            cut(&whole.segments, offset as u64, bytes, &mut segments)?;
            // SAFETY: `cut` found the part in the run, which is one range of addresses.
            let start = unsafe { whole.start.add(offset) };
            Some(Run { start, memory: RunMemory::Part, segments })
        };
        self.runs.values().find_map(of_it)
    }

    /// What is inherited and was not noted is nobody's.
    pub fn settle(&mut self) {
        self.inherited.clear();
        self.kept.clear();
        self.pool.settle();
        self.changes += 1;
    }

    /// Gives up what is inherited, while the object goes on having it.
    pub fn set_aside(&mut self) {
        for run in core::mem::take(&mut self.kept) {
            if let Some(Run { memory: RunMemory::Own(pieces), .. }) = self.runs.remove(&run) {
                pieces.into_iter().for_each(Chunk::leave);
            }
        }
        core::mem::take(&mut self.inherited).into_values().for_each(|left| left.chunk.leave());
        self.pool.set_aside();
        self.changes += 1;
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
        let inherited = self.inherited.values().flat_map(|left| left.segments.iter().copied());
        self.pool.chunks().chain(pieces).chain(inherited)
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
            match self.memory.fill(&mut rest, Region::Own, bytes as usize).ok()? {
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
