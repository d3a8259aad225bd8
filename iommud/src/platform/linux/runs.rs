//! Clients' buffers: each a memfd of its own, so that a client is given exactly its buffer. It is the daemon's or, where
//! the client has registered it, the client's.
//!
//! A run takes whole huge pages, of which the engine is told only the part that was asked for. The rest of
//! the last page belongs to the same buffer and to nothing else (rule R8). Each is used once: a client that has mapped it may
//! close its handle and keep the mapping, and Linux tells nobody. So nothing can be set aside here to be given out in parts,
//! and what is freed goes back to the kernel, which gives a page to nobody before the last of its mappings is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use dma_types::{CpuAddr, PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};
use iommu_service::numbered::Numbered;
use libdma::Error;

use super::huge_pages::{HUGE_PAGE, HugePages};
use super::keeper::{Kept, Source};
use super::pagemap::PageMap;
use super::parcel::{Piece, Purpose, Shown};
use crate::platform::pieces::append;
use crate::platform::sealed::{Pages, SealedMemory};

/// All the runs.
#[derive(Debug)]
pub struct Runs {
    source: Rc<Source>,
    runs: Numbered<RunId, Run>,
    /// What a process before this one left, by its number, as long as nobody knows what of it is in use.
    inherited: BTreeMap<u64, Memory>,
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

#[derive(Clone, Debug)]
enum Memory {
    Own(Rc<HugePages>),
    Clients(Rc<Clients>),
}

/// A client's memory.
#[derive(Debug)]
struct Clients {
    memory: SealedMemory,
    /// Where its huge pages are.
    physical: Vec<PhysAddr>,
    /// The last to go.
    kept: Kept,
}

impl Clients {
    /// Memory that a process before this one took.
    fn inherited(piece: Piece, source: &Source) -> io::Result<Self> {
        let kept = source.keeper.kept(piece.number);
        let found = SealedMemory::inherited(piece.memory, piece.bytes)
            .map_err(|_| io::ErrorKind::InvalidData.into())
            .and_then(|memory| Ok((places(&memory, &source.map)?, memory)));
        match found {
            Ok((physical, memory)) => Ok(Self { memory, physical, kept }),
            Err(error) => {
                kept.leave();
                Err(error)
            }
        }
    }
}

/// Where the huge pages of a client's memory are. Nothing takes them away or puts others in their places any more.
fn places(memory: &SealedMemory, map: &PageMap) -> io::Result<Vec<PhysAddr>> {
    let start = memory.address().get();
    (0..memory.length() as u64)
        .step_by(HUGE_PAGE as usize)
        .map(|offset| map.translate(CpuAddr::new(start + offset)))
        .collect()
}

impl Memory {
    /// Where its huge pages are.
    fn physical(&self) -> &[PhysAddr] {
        match self {
            Self::Own(pages) => pages.physical(),
            Self::Clients(clients) => &clients.physical,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(pages) => pages.fd(),
            Self::Clients(clients) => clients.memory.fd(),
        }
    }

    /// The number by which the keeper knows it.
    fn number(&self) -> u64 {
        match self {
            Self::Own(pages) => pages.number(),
            Self::Clients(clients) => clients.kept.number(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Own(pages) => pages.bytes(),
            Self::Clients(clients) => clients.memory.length() as u64,
        }
    }

    /// Gives it up here, while the keeper goes on having it.
    fn leave(self) {
        match self {
            Self::Own(pages) => {
                Rc::into_inner(pages).into_iter().for_each(HugePages::leave);
            }
            Self::Clients(clients) => {
                Rc::into_inner(clients).into_iter().for_each(|clients| clients.kept.leave());
            }
        }
    }
}

impl Runs {
    /// No runs yet.
    pub fn new(source: Rc<Source>) -> Self {
        let (runs, inherited) = (Numbered::default(), BTreeMap::new());
        Self { source, runs, inherited, last: 0, changes: 0 }
    }

    /// Adds memory of a process before this one, of which nobody knows yet whether it is in use.
    ///
    /// # Errors
    ///
    /// It is not what it should be. The keeper has it still.
    pub fn inherit(&mut self, piece: Piece) -> io::Result<()> {
        let number = piece.number;
        let memory = match piece.purpose {
            Purpose::Clients => Memory::Clients(Rc::new(Clients::inherited(piece, &self.source)?)),
            _ => Memory::Own(Rc::new(HugePages::inherited(piece, &self.source)?)),
        };
        self.inherited.insert(number, memory);
        Ok(())
    }

    /// Where the huge pages of all runs are.
    pub fn places(&self) -> impl Iterator<Item = PhysAddr> {
        self.memory().flat_map(|memory| memory.physical().iter().copied())
    }

    /// What a keeper is shown of them.
    pub fn pieces(&self) -> impl Iterator<Item = Shown<'_>> {
        self.memory().map(|memory| match memory {
            Memory::Own(pages) => pages.shown(Purpose::Run),
            Memory::Clients(_) => Shown {
                purpose: Purpose::Clients,
                number: memory.number(),
                bytes: memory.bytes(),
                memory: memory.fd(),
            },
        })
    }

    /// The memory of all runs.
    fn memory(&self) -> impl Iterator<Item = &Memory> {
        let runs = self.runs.values().map(|run| &run.memory);
        // That of a run that is in use is counted once.
        let used: BTreeSet<u64> = runs.clone().map(Memory::number).collect();
        let unused = self.inherited.iter().filter(move |(number, _)| !used.contains(number));
        runs.chain(unused.map(|(_, memory)| memory))
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
        let physical = places(&memory, &self.source.map).map_err(|_| Error::BadAddress)?;
        let kept = self.source.keeper.keep(Purpose::Clients, memory.length() as u64, memory.fd());
        let kept = kept.map_err(|_| Error::OutOfMemory)?;
        Ok(self.add(Memory::Clients(Rc::new(Clients { memory, physical, kept })), bytes))
    }

    /// Keeps the first `bytes` of this memory as a run.
    fn add(&mut self, memory: Memory, bytes: u64) -> RunId {
        self.last += 1;
        let id = RunId(self.last);
        self.add_as(id, memory, bytes);
        id
    }

    fn add_as(&mut self, id: RunId, memory: Memory, bytes: u64) {
        let mut segments = Vec::new();
        let mut rest = bytes;
        for start in memory.physical() {
            let part = rest.min(HUGE_PAGE);
            append(&mut segments, *start, part);
            rest -= part;
        }
        self.changes += 1;
        self.last = self.last.max(id.0);
        self.runs.insert(id, Run { memory, segments });
    }

    /// Where a run is, in words by which [`keep`](Self::keep) finds it again.
    pub fn place(&self, run: RunId) -> Option<[u64; 3]> {
        let run = self.runs.get(&run)?;
        let bytes = run.segments.iter().map(|segment| segment.bytes).sum();
        Some([run.memory.number(), bytes, 0])
    }

    /// Notes that a run of a process before this one is in use. `false` if there is no such memory, or it is another run's.
    pub fn keep(&mut self, run: RunId, [number, bytes, rest]: [u64; 3]) -> bool {
        let found = self.inherited.get(&number).filter(|_| rest == 0);
        let Some(memory) = found.cloned() else { return false };
        let is_whole = bytes != 0 && bytes.is_multiple_of(PAGE_SIZE) && bytes <= memory.bytes();
        let of_it = |it: &Run| it.memory.number() == number;
        if !is_whole || self.runs.contains_key(&run) || self.runs.values().any(of_it) {
            return false;
        }
        self.add_as(run, memory, bytes);
        true
    }

    /// What is inherited and was not noted is nobody's.
    pub fn settle(&mut self) {
        self.inherited.clear();
        self.changes += 1;
    }

    /// Gives up what is inherited.
    pub fn set_aside(&mut self) {
        let inherited = core::mem::take(&mut self.inherited);
        let is_of_it = |run: &Run| inherited.contains_key(&run.memory.number());
        let of_it = self.runs.iter().filter(|(_, run)| is_of_it(run)).map(|(id, _)| *id);
        for run in of_it.collect::<Vec<_>>() {
            self.runs.remove(&run);
        }
        inherited.into_values().for_each(Memory::leave);
        self.changes += 1;
    }

    /// A huge page that ends below this limit. Those above are kept until there is one, for the kernel would give the same
    /// again.
    fn page_below(&self, limit: PhysAddr) -> Result<HugePages, ContiguityError> {
        let mut above = Vec::new();
        for _ in 0..MOST_TRIES {
            let Ok(page) = HugePages::new(Purpose::Run, HUGE_PAGE, &self.source) else { break };
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
        let pages = HugePages::new(Purpose::Run, bytes, &self.source).ok()?;
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

    fn free_run(&mut self, run: RunId) {
        self.changes += u64::from(self.runs.remove(&run).is_some());
    }

    fn segments(&self, run: RunId) -> &[Segment] {
        self.runs.get(&run).map_or(&[], |run| &run.segments)
    }
}
