//! Clients' buffers: one range of this process's addresses each, filled with contiguous pieces.

use std::collections::BTreeMap;
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};

use super::memory::{Memory, Place};
use crate::platform::pieces::{LARGEST_PIECE, append, next_piece};

/// Memory for clients' buffers.
pub struct RunArena {
    memory: Rc<Memory>,
    runs: BTreeMap<RunId, Run>,
    next: u64,
    changes: u64,
}

struct Run {
    start: CpuAddr,
    /// What keeps it mapped, one after the other.
    _pieces: Vec<Place>,
    segments: Vec<Segment>,
}

impl RunArena {
    /// An arena without runs.
    pub fn new(memory: Rc<Memory>) -> Self {
        Self { memory, runs: BTreeMap::new(), next: 1, changes: 0 }
    }

    /// Where a run is in this process: what a client's `mmap` of it is answered with. The kernel asks for
    /// no length there, so whoever answers must have checked that offset and length lie in the run.
    pub fn address(&self, run: RunId) -> Option<CpuAddr> {
        self.runs.get(&run).map(|run| run.start)
    }

    /// Where all runs are.
    pub fn places(&self) -> impl Iterator<Item = Segment> {
        self.runs.values().flat_map(|run| run.segments.iter().copied())
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Reserves the addresses, then fills them from the start with the largest pieces to be had.
    fn build(&self, bytes: usize) -> Option<Run> {
        let mut rest = self.memory.reserve(bytes).ok()?;
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
        Some(Run { start, _pieces: pieces, segments })
    }

    fn add(&mut self, run: Run) -> RunId {
        let id = RunId(self.next);
        self.next += 1;
        self.changes += 1;
        self.runs.insert(id, run);
        id
    }
}

impl BufferRuns for RunArena {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        let length = usize::try_from(bytes).ok()?;
        if length == 0 || bytes % PAGE_SIZE != 0 {
            return None;
        }
        let run = self.build(length)?;
        Some(self.add(run))
    }

    fn alloc_contiguous_run(&mut self, bytes: u64) -> Result<RunId, ContiguityError> {
        if bytes > LARGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        // Of another count of pages the kernel would lose what is past it: the run keeps the whole piece.
        let whole = bytes.next_power_of_two() as usize;
        let (piece, start) =
            self.memory.contiguous(whole).map_err(|_| ContiguityError::OutOfMemory)?;
        let segments = vec![Segment { start, bytes }];
        Ok(self.add(Run { start: piece.start().into(), _pieces: vec![piece], segments }))
    }

    fn free_run(&mut self, run: RunId) {
        if self.runs.remove(&run).is_some() {
            self.changes += 1;
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
