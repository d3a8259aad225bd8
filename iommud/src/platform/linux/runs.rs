//! Clients' buffers: each a memfd of its own, so that a client is given exactly its buffer. It is the daemon's or, where
//! the client has registered it, the client's.
//!
//! A run takes whole huge pages, of which the engine is told only the part that was asked for. The rest of
//! the last page belongs to the same buffer and to nothing else (rule R8).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};
use libdma::Error;

use super::huge_pages::{HUGE_PAGE, HugePages};
use super::pagemap::PageMap;
use crate::platform::pieces::append;
use crate::platform::sealed::{Pages, SealedMemory};

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
    memory: Memory,
    segments: Vec<Segment>,
}

/// How many huge pages are tried for one that is below a limit.
const MOST_TRIES: usize = 32;

#[derive(Debug)]
enum Memory {
    Own(Rc<HugePages>),
    /// Another run's, which is never freed.
    Part(Rc<HugePages>),
    /// A client's, and where its huge pages are.
    Clients(SealedMemory, Vec<PhysAddr>),
}

impl Memory {
    const fn is_part(&self) -> bool {
        matches!(self, Self::Part(_))
    }

    /// Where its huge pages are.
    fn physical(&self) -> &[PhysAddr] {
        match self {
            Self::Own(pages) | Self::Part(pages) => pages.physical(),
            Self::Clients(_, physical) => physical,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(pages) | Self::Part(pages) => pages.fd(),
            Self::Clients(memory, _) => memory.fd(),
        }
    }
}

impl Runs {
    /// No runs yet.
    pub fn new(map: Rc<PageMap>) -> Self {
        Self { map, runs: BTreeMap::new(), last: 0, changes: 0 }
    }

    /// Where the huge pages of all runs are.
    pub fn places(&self) -> impl Iterator<Item = PhysAddr> {
        let runs = self.runs.values().filter(|run| !run.memory.is_part());
        runs.flat_map(|run| run.memory.physical().iter().copied())
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Makes a run of the first `bytes` of a memfd that a client sent.
    ///
    /// # Errors
    ///
    /// As [`SealedMemory::take`].
    pub fn supplied_run(&mut self, sent: OwnedFd, bytes: u64) -> Result<RunId, Error> {
        let memory = SealedMemory::take(sent, bytes, Pages::Huge(HUGE_PAGE))?;
        let start = memory.address().get();
        // Nothing takes its pages away or puts others in their places any more.
        let physical: io::Result<Vec<_>> = (0..memory.length() as u64)
            .step_by(HUGE_PAGE as usize)
            .map(|offset| self.map.translate(CpuAddr::new(start + offset)))
            .collect();
        let physical = physical.map_err(|_| Error::BadAddress)?;
        Ok(self.add(Memory::Clients(memory, physical), bytes))
    }

    /// Keeps the first `bytes` of this memory as a run.
    fn add(&mut self, memory: Memory, bytes: u64) -> RunId {
        let mut segments = Vec::new();
        let mut rest = bytes;
        for start in memory.physical() {
            let part = rest.min(HUGE_PAGE);
            append(&mut segments, *start, part);
            rest -= part;
        }
        self.last += 1;
        self.changes += u64::from(!memory.is_part());
        let id = RunId(self.last);
        self.runs.insert(id, Run { memory, segments });
        id
    }

    /// A huge page that ends below this limit. Those above are kept until there is one, for the kernel would give the same
    /// again.
    fn page_below(&self, limit: PhysAddr) -> Result<HugePages, ContiguityError> {
        let mut above = Vec::new();
        for _ in 0..MOST_TRIES {
            let Ok(page) = HugePages::new("iommud-run", HUGE_PAGE, &self.map) else { break };
            let last = |start: &PhysAddr| start.get() + (HUGE_PAGE - 1);
            if page.physical().iter().all(|start| last(start) <= limit.get()) {
                return Ok(page);
            }
            above.push(page);
        }
        Err(if above.is_empty() {
            ContiguityError::OutOfMemory
        } else {
            ContiguityError::AboveLimit
        })
    }

    /// The descriptor of a run's memory: what a client is given.
    pub fn fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run).map(|run| run.memory.fd())
    }
}

impl BufferRuns for Runs {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let pages = HugePages::new("iommud-run", bytes, &self.map).ok()?;
        Some(self.add(Memory::Own(Rc::new(pages)), bytes))
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        if bytes > HUGE_PAGE {
            return Err(ContiguityError::TooLong);
        }
        // A huge page is one piece.
        let pages = self.page_below(limit)?;
        Ok(self.add(Memory::Own(Rc::new(pages)), bytes))
    }

    fn longest_piece(&self) -> u64 {
        HUGE_PAGE
    }

    /// One huge page: a client is given a whole memfd.
    fn alloc_divisible_run(&mut self, _bytes: u64) -> Option<RunId> {
        self.alloc_run(HUGE_PAGE)
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        let Memory::Own(pages) = &self.runs.get(&whole)?.memory else { return None };
        if offset != 0 || bytes > HUGE_PAGE {
            return None;
        }
        pages.clear();
        let part = Memory::Part(pages.clone());
        Some(self.add(part, bytes))
    }

    fn part_step(&self) -> u64 {
        HUGE_PAGE
    }

    fn free_run(&mut self, run: RunId) {
        if self.runs.remove(&run).is_some_and(|run| !run.memory.is_part()) {
            self.changes += 1;
        }
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
