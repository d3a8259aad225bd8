//! Clients' buffers: each a memfd of its own, so that a client is given exactly its buffer.
//!
//! A run takes whole huge pages, of which the engine is told only the part that was asked for. The rest of
//! the last page belongs to the same buffer and to nothing else (rule R8).

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};

use super::huge_pages::{HUGE_PAGE, HugePages};
use super::pagemap::PageMap;
use crate::platform::pieces::append;

/// All the runs.
#[derive(Debug)]
pub struct Runs {
    map: Rc<PageMap>,
    runs: BTreeMap<RunId, Run>,
    last: u64,
    changes: u64,
}

#[derive(Debug)]
struct Run {
    pages: HugePages,
    segments: Vec<Segment>,
}

impl Runs {
    /// No runs yet.
    pub fn new(map: Rc<PageMap>) -> Self {
        Self { map, runs: BTreeMap::new(), last: 0, changes: 0 }
    }

    /// Where the huge pages of all runs are.
    pub fn places(&self) -> impl Iterator<Item = PhysAddr> {
        self.runs.values().flat_map(|run| run.pages.physical().iter().copied())
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The descriptor of a run's memory: what a client is given.
    pub fn fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run).map(|run| run.pages.fd())
    }
}

impl BufferRuns for Runs {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let pages = HugePages::new("iommud-run", bytes, &self.map).ok()?;
        let mut segments = Vec::new();
        let mut rest = bytes;
        for start in pages.physical() {
            let part = rest.min(HUGE_PAGE);
            append(&mut segments, *start, part);
            rest -= part;
        }
        self.last += 1;
        self.changes += 1;
        let id = RunId(self.last);
        self.runs.insert(id, Run { pages, segments });
        Some(id)
    }

    fn alloc_contiguous_run(&mut self, bytes: u64) -> Result<RunId, ContiguityError> {
        if bytes > HUGE_PAGE {
            return Err(ContiguityError::TooLong);
        }
        // A huge page is one piece.
        self.alloc_run(bytes).ok_or(ContiguityError::OutOfMemory)
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
