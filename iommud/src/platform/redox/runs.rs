//! Clients' buffers.
//!
//! A run is a range of this process's addresses filled with the largest pieces that are to be had, each contiguous in physical
//! memory and in no other run; they come from the kernel when the run is made, and go back to it when that is freed.
//!
//! Every run is write-back, in this process and in its clients. Neither has another way to memory that outlives this
//! process (kernel 663e6641, `src/context/memory.rs`): what comes out of the memory object is mapped by `Grant::borrow`
//! and `correct_inner`, which know no cache type, whatever the object's own entries say; a client's mapping
//! (`Grant::borrow_fmap`) is given the type of this process's entry, which is such a borrow; and `physical@wc` refuses
//! RAM that the allocator owns (`Grant::physmap`).
//!
//! Others' runs may lie beside a run, and the kernel lets a client map whatever follows the
//! address that it is given. So offset and length of each mapping are checked before that
//! ([`MapRequest::check`] and the service's grant).
//!
//! Why no memory is kept here to be given out again, which would cost the kernel nothing: nobody here knows when the last of a
//! client's mappings is gone (rule R8). The service frees a run when its handle is closed, and the kernel closes a handle when the
//! last of its descriptors and of its mappings are gone, as far as it counts them. It does not count all: a client can map what
//! it was lent into an address space in which nobody runs, from there into a second one and from that into itself, and take it out
//! of the two; its own mapping stays then, and the handle is closed (`Grant::borrow` and `Grant::unmap` count only who borrows
//! straight of what a scheme has lent). And of handles that died with a process before this one nobody hears that they are closed. But for
//! each frame the kernel counts the page entries that there are, whosever they are and however they were made (`borrow_fmap`,
//! `borrow` and `correct_inner` add one, `handle_free_action` gives a frame back with the last), and gives it to nobody before. (By
//! reading it forgets one where a page is looked up of a borrow whose source is gone: `THREATS.md`.)
//!
//! [`MapRequest::check`]: crate::transport::scheme::request::MapRequest::check

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};
use iommu_engine::segments::cut;
use iommu_service::numbered::Numbered;
use libredox::Fd;

use super::area::Region;
use super::foreign::{self, ForeignError};
use super::memory::{Chunk, Left, Memory};
use super::plain::Unfit;
use crate::platform::pieces::{LARGEST_PIECE, append, next_piece};

/// Memory for clients' buffers.
pub struct RunArena {
    memory: Rc<Memory>,
    runs: Numbered<RunId, Run>,
    /// Pieces of a process before this one, by where they are in this one, as long as nobody knows what of it is in use.
    inherited: BTreeMap<usize, Left>,
    /// Runs of that process that are in use.
    kept: Vec<RunId>,
    next: u64,
    /// How often pieces came or went.
    changes: u64,
}

struct Run {
    start: NonNull<u8>,
    memory: RunMemory,
    segments: Vec<Segment>,
}

/// What a run is made of.
enum RunMemory {
    /// Pieces of its own, which it keeps mapped, one after the other. Of one that must be contiguous there may be more than of
    /// the run: nobody has the rest.
    Own(Vec<Chunk>),
    /// Some of another run's, which is never freed.
    Part,
}

/// Kinds of runs, as their places tell them.
const OF_ITS_OWN: u64 = 1;
const A_PART: u64 = 2;

/// How many pieces are tried for one that is below a limit.
const MOST_TRIES: usize = 32;

impl RunArena {
    /// An arena without runs.
    pub fn new(memory: Rc<Memory>) -> Self {
        let (runs, inherited) = (Numbered::default(), BTreeMap::new());
        Self { memory, runs, inherited, kept: Vec::new(), next: 1, changes: 0 }
    }

    /// Adds memory of a process before this one, of which nobody knows yet whether it is in use.
    pub fn inherit(&mut self, left: Left) {
        self.changes += 1;
        self.inherited.insert(left.chunk.start().addr().get(), left);
    }

    /// Where a run is, in words by which [`keep`](Self::keep) finds it again.
    pub fn place(&self, run: RunId) -> Option<[u64; 3]> {
        let run = self.runs.get(&run)?;
        let bytes = run.segments.iter().map(|segment| segment.bytes).sum();
        let kind = match run.memory {
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

    /// The pieces of a run, which lie one behind the other. One alone may be longer than the run: what must be contiguous
    /// is rounded up.
    fn keep_own(&mut self, start: usize, bytes: u64) -> Option<Run> {
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        let mut at = start;
        for (place, left) in self.inherited.range(start..end) {
            if *place != at {
                return None;
            }
            at = place.checked_add(left.chunk.bytes())?;
        }
        let is_rounded = || {
            let only = self.inherited.get(&start).map(|left| left.chunk.bytes() as u64);
            only.is_some() && only == bytes.checked_next_power_of_two()
        };
        if at != end && !is_rounded() {
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
        let mut of_run = Vec::new();
        cut(&segments, 0, bytes, &mut of_run)?;
        Some(Run { start, memory: RunMemory::Own(pieces), segments: of_run })
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
        pieces.chain(inherited)
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Reserves the addresses of a run, then fills them from the start.
    fn build(&mut self, bytes: u64) -> Option<Run> {
        let mut rest = self.memory.reserve(usize::try_from(bytes).ok()?).ok()?;
        let start = rest.start();
        let (mut pieces, mut segments) = (Vec::new(), Vec::new());
        let mut limit = LARGEST_PIECE;
        while rest.bytes() != 0 {
            let bytes = next_piece(rest.bytes() as u64, limit)?;
            match self.memory.fill(&mut rest, Region::Runs, bytes as usize).ok()? {
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

    /// A piece of this many bytes, a power of two of pages, of which none is above the limit. The kernel is not told of that: it is
    /// asked for one piece after the other, up to a number, and what is too high is kept until there is one, for it would
    /// give the same again.
    fn piece_below(
        &self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<(Chunk, PhysAddr), ContiguityError> {
        let mut above = Vec::new();
        for _ in 0..MOST_TRIES {
            let Ok(Some((chunk, start))) = self.memory.contiguous(Region::Runs, bytes as usize)
            else {
                break;
            };
            if start.checked_add(bytes - 1).is_some_and(|last| last <= limit) {
                return Ok((chunk, start));
            }
            above.push(chunk);
        }
        Err(if above.is_empty() {
            ContiguityError::OutOfMemory
        } else {
            ContiguityError::AboveLimit
        })
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

impl BufferRuns for RunArena {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let run = self.build(bytes)?;
        Some(self.add(run))
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        let piece = bytes.checked_next_power_of_two().filter(|piece| *piece <= LARGEST_PIECE);
        let (chunk, start) = self.piece_below(piece.ok_or(ContiguityError::TooLong)?, limit)?;
        self.changes += 1;
        let (segments, start) = (vec![Segment { start, bytes }], chunk.start());
        Ok(self.add(Run { start, memory: RunMemory::Own(vec![chunk]), segments }))
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
            RunMemory::Own(pieces) => {
                self.changes += 1;
                // The kernel gives first what it was given last (663e6641, `src/memory/mod.rs`): so the next run of as many
                // pieces has them in the order in which they continue one another.
                pieces.into_iter().rev().for_each(drop);
            }
            RunMemory::Part => {}
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
