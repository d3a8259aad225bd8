//! Clients' buffers: memory of their own, in simulated pages.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ContiguityError, NotInherited, PLACE_WORDS, RunId, RunPlace, Segment,
};
use iommu_engine::segments::cut;
use iommu_service::numbered::Numbered;

use super::memory::{POISON, SimMemory, fill};
use super::pages::{LONGEST_PIECE, PageBook};
use super::shared::SharedMemory;

/// How many bytes of runs there may be at a time, unless a test says otherwise.
const RUN_BYTES: u64 = 256 << 20;

/// All the runs.
#[derive(Debug)]
pub(super) struct Runs {
    /// Where devices find them.
    memory: Arc<SimMemory>,
    runs: Numbered<RunId, Run>,
    /// A predecessor's, of which nobody has kept any yet.
    inherited: Vec<Run>,
    /// A predecessor's, which devices may reach for good.
    aside: Vec<Run>,
    next: u64,
    /// How many there have ever been.
    made: u64,
    /// How many bytes of them there may be at a time.
    limit: u64,
    pages: PageBook,
    bad_frees: u64,
    /// How often it has changed where they are.
    changes: u64,
}

/// A run: its memory, and where that is.
#[derive(Debug)]
struct Run {
    memory: Arc<SharedMemory>,
    segments: Vec<Segment>,
    bytes: u64,
    kind: Kind,
    memory_id: MemoryId,
}

/// Names the memory of a run, whichever daemon has it, under whichever number. No two runs ever had the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId(u64);

/// What a run's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its own.
    Plain,
    /// Its own, to be given out in parts.
    Whole,
    /// A part of another's.
    Part,
}

impl Run {
    /// Where it is, in words that its memory has by itself.
    fn place(&self) -> RunPlace {
        let start = self.segments.first().map_or(0, |first| first.start.get());
        let mut words = [0; PLACE_WORDS];
        words[..3].copy_from_slice(&[start, self.bytes, self.kind as u64]);
        RunPlace(words)
    }
}

impl Runs {
    /// None yet.
    pub(super) fn new(memory: Arc<SimMemory>) -> Self {
        Self {
            memory,
            runs: Numbered::default(),
            inherited: Vec::new(),
            aside: Vec::new(),
            next: 1,
            made: 0,
            limit: RUN_BYTES,
            pages: PageBook::default(),
            bad_frees: 0,
            changes: 0,
        }
    }

    /// The descriptor of a run's memory.
    pub(super) fn fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run).and_then(|run| run.memory.fd())
    }

    /// A run's memory, in its order.
    pub(super) fn words(&self, run: RunId) -> Option<&[AtomicU64]> {
        self.runs.get(&run).map(|run| run.memory.words())
    }

    /// How many are given out; a divisible one is counted by its parts.
    pub(super) fn live(&self) -> usize {
        self.runs.values().filter(|run| run.kind != Kind::Whole).count()
    }

    /// Their length together in bytes.
    pub(super) fn live_bytes(&self) -> u64 {
        self.bytes(Kind::Plain) + self.bytes(Kind::Part)
    }

    /// The memory that a page is of, whether a run is given out, or was a predecessor's and is not decided about.
    pub(super) fn memory_at(&self, page: PhysAddr) -> Option<MemoryId> {
        let runs = self.runs.values().chain(&self.inherited).chain(&self.aside);
        let of = |run: &&Run| {
            let contains = |segment: &Segment| {
                page.get().checked_sub(segment.start.get()).is_some_and(|at| at < segment.bytes)
            };
            run.segments.iter().any(contains)
        };
        runs.filter(of).map(|run| run.memory_id).max()
    }

    /// How often one was freed that was not given out.
    pub(super) fn bad_frees(&self) -> u64 {
        self.bad_frees
    }

    /// From now on there is memory for no more than this many bytes of runs at a time.
    pub(super) fn limit_bytes(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// From now on pages that were freed first are given out first.
    pub(super) fn reuse_late(&mut self) {
        self.pages.reuse_late();
    }

    /// From now on there is this many times 4 MiB below 4 GiB.
    pub(super) fn limit_low_pieces(&mut self, pieces: u64) {
        self.pages.limit_low(pieces);
    }

    /// Where they are: parts are in their wholes.
    pub(super) fn places(&self) -> impl Iterator<Item = Segment> {
        let runs = self.runs.values().chain(&self.inherited).chain(&self.aside);
        let runs = runs.filter(|run| run.kind != Kind::Part);
        runs.flat_map(|run| run.segments.iter().copied())
    }

    /// How often that has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Where a run is, for a successor.
    pub(super) fn place(&self, run: RunId) -> Option<RunPlace> {
        self.runs.get(&run).map(Run::place)
    }

    /// Makes all runs a predecessor's, and gives out numbers from the first on again.
    pub(super) fn inherit(&mut self) {
        self.inherited.extend(core::mem::take(&mut self.runs).into_values());
        self.next = 1;
        self.pages.withhold();
        self.changes += 1;
    }

    /// Keeps a predecessor's.
    pub(super) fn keep(&mut self, run: RunId, place: RunPlace) -> Result<(), NotInherited> {
        let found = self.inherited.iter().position(|run| run.place() == place);
        let at = found.filter(|_| !self.runs.contains_key(&run)).ok_or(NotInherited)?;
        let kept = self.inherited.swap_remove(at);
        self.next = self.next.max(run.0.saturating_add(1));
        self.runs.insert(run, kept);
        Ok(())
    }

    /// Frees those that nobody has kept.
    pub(super) fn settle(&mut self) {
        // Parts first: their pages are their wholes'.
        self.inherited.sort_by_key(|run| run.kind != Kind::Part);
        for run in core::mem::take(&mut self.inherited) {
            self.release(run);
        }
        self.pages.release();
    }

    /// Leaves those that nobody has kept as they are, for good.
    pub(super) fn set_aside(&mut self) {
        self.aside.append(&mut self.inherited);
        self.pages.forget_withheld();
    }

    fn release(&mut self, run: Run) {
        self.memory.remove(&run.segments);
        if run.kind != Kind::Part {
            self.changes += 1;
            self.pages.put_back(&run.segments);
        }
        if run.memory.is_own() {
            // A client that has kept the descriptor sees this.
            fill(run.memory.words(), POISON);
        }
    }

    fn bytes(&self, kind: Kind) -> u64 {
        self.runs.values().filter(|run| run.kind == kind).map(|run| run.bytes).sum()
    }

    fn alloc(
        &mut self,
        bytes: u64,
        kind: Kind,
        take: impl FnOnce(&mut PageBook) -> Option<Vec<Segment>>,
    ) -> Result<RunId, ContiguityError> {
        let used = self.bytes(Kind::Plain) + self.bytes(Kind::Whole);
        let room = self.limit.saturating_sub(used);
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || bytes > room {
            return Err(ContiguityError::OutOfMemory);
        }
        let memory = SharedMemory::new("iommud-run", bytes);
        let memory = memory.map_err(|_| ContiguityError::OutOfMemory)?;
        let segments = take(&mut self.pages).ok_or(ContiguityError::AboveLimit)?;
        Ok(self.add(memory, segments, bytes, kind))
    }

    /// Makes a run of memory that a client or a driver supplies, in pages of its own.
    pub(super) fn supplied(&mut self, memory: SharedMemory) -> RunId {
        let bytes = (memory.words().len() * size_of::<u64>()) as u64;
        let segments = self.pages.take(bytes);
        self.add(memory, segments, bytes, Kind::Plain)
    }

    fn add(
        &mut self,
        memory: SharedMemory,
        segments: Vec<Segment>,
        bytes: u64,
        kind: Kind,
    ) -> RunId {
        let memory = Arc::new(memory);
        self.memory.insert(&segments, &memory);
        let id = RunId(self.next);
        self.next += 1;
        self.made += 1;
        let memory_id = MemoryId(self.made);
        self.runs.insert(id, Run { memory, segments, bytes, kind, memory_id });
        self.changes += u64::from(kind != Kind::Part);
        id
    }
}

impl BufferRuns for Runs {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        self.alloc(bytes, Kind::Plain, |pages| Some(pages.take(bytes))).ok()
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        if bytes > LONGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        self.alloc(bytes, Kind::Plain, |pages| pages.take_piece(bytes, limit))
    }

    fn longest_piece(&self) -> u64 {
        LONGEST_PIECE
    }

    fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
        self.alloc(bytes, Kind::Whole, |pages| Some(pages.take_divisible(bytes))).ok()
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        let whole = self.runs.get(&whole).filter(|run| run.kind == Kind::Whole)?;
        let mut segments = Vec::new();
        cut(&whole.segments, offset, bytes, &mut segments)?;
        let memory = SharedMemory::new("iommud-run", bytes).ok()?;
        Some(self.add(memory, segments, bytes, Kind::Part))
    }

    fn free_run(&mut self, run: RunId) {
        let Some(run) = self.runs.remove(&run) else {
            self.bad_frees += 1;
            return;
        };
        self.release(run);
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
