//! Buffers: contiguous for the CPU, scattered in memory on purpose.
//!
//! A multiple of 2 MiB is one piece, aligned so that a unit may map it with large pages. Every other size
//! above one page is two pieces from the two ends of the range, the higher one first: whoever takes a
//! buffer for one piece, or its pieces for sorted, is found out.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::{CacheType, PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, ContiguityError, RunId, Segment};
use iommu_engine::segments::cut;

use crate::memory::layout::Range;
use crate::memory::pages::{From, Pages};
use crate::memory::paging::{View, Window};

const LARGE_PAGES: usize = (2 << 20) / PAGE_SIZE as usize;

/// The longest that is ever one piece on purpose: as on Redox.
const LONGEST_PIECE: u64 = 4 << 20;

/// The buffers in one range of memory.
#[derive(Debug)]
pub struct Runs {
    place: Range,
    pages: Pages,
    window: Window,
    /// All that were ever made, by number: a boot makes few enough. Those that were freed are none.
    runs: Vec<Option<Run>>,
}

#[derive(Debug)]
struct Run {
    segments: Vec<Segment>,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// Of the range, in the window.
    Own(View),
    /// Another run's, in the window once more.
    Part(View),
    /// A driver's, which stays where it is.
    Drivers(NonNull<u8>),
}

// SAFETY: the guest has one thread.
unsafe impl Send for Memory {}

impl Runs {
    /// The buffers of this range, none yet.
    ///
    /// # Safety
    ///
    /// There are no others. The range is memory and nobody else's; it starts at a multiple of 4 MiB. The
    /// page table in use maps the heap to itself.
    pub unsafe fn new(place: Range) -> Self {
        let pages = Pages::new((place.bytes / PAGE_SIZE) as usize);
        // SAFETY: as the caller says.
        let window = unsafe { Window::new() };
        Self { place, pages, window, runs: Vec::new() }
    }

    /// How many buffers there are.
    pub fn in_use(&self) -> usize {
        self.runs.iter().flatten().count()
    }

    /// Takes every buffer back: whoever held them is gone, and no device reaches any of them.
    pub fn take_all_back(&mut self) {
        for number in 0..self.runs.len() {
            if self.runs[number].is_some() {
                self.free_run(RunId(number as u64));
            }
        }
    }

    /// Where the CPU sees a buffer.
    pub fn pointer(&self, run: RunId) -> Option<NonNull<u8>> {
        self.get(run).map(|run| match &run.memory {
            Memory::Own(view) | Memory::Part(view) => view.pointer(),
            Memory::Drivers(start) => *start,
        })
    }

    /// Makes a buffer of a driver's memory, wherever it is. `None` if some of it is nowhere.
    pub fn adopt(&mut self, start: NonNull<u8>, bytes: u64) -> Option<RunId> {
        let mut segments: Vec<Segment> = Vec::new();
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            let address = usize::try_from(offset).ok()?;
            let page = self.window.translate(start.map_addr(|it| it.saturating_add(address)))?;
            match segments.last_mut() {
                Some(last) if last.start.checked_add(last.bytes) == Some(page) => {
                    last.bytes += PAGE_SIZE;
                }
                _ => segments.push(Segment { start: page, bytes: PAGE_SIZE }),
            }
        }
        Some(self.insert(segments, Memory::Drivers(start)))
    }

    #[inline]
    fn get(&self, run: RunId) -> Option<&Run> {
        self.runs.get(run.0 as usize)?.as_ref()
    }

    fn insert(&mut self, segments: Vec<Segment>, memory: Memory) -> RunId {
        self.runs.push(Some(Run { segments, memory }));
        RunId(self.runs.len() as u64 - 1)
    }

    /// Takes the memory for `count` pages, in pieces.
    fn take(&mut self, count: usize) -> Option<Vec<Segment>> {
        let one_piece = |alignment| (count, alignment, From::Bottom);
        let pieces = if count == 1 {
            &[one_piece(1)][..]
        } else if count.is_multiple_of(LARGE_PAGES) {
            &[one_piece(LARGE_PAGES)][..]
        } else {
            &[(count.div_ceil(2), 1, From::Top), (count / 2, 1, From::Bottom)][..]
        };
        let mut segments = Vec::new();
        for &(count, alignment, from) in pieces {
            let Some(first) = self.pages.take(count, alignment, from) else {
                self.give_back(&segments);
                return None;
            };
            let start = PhysAddr::new(self.place.start.get() + first as u64 * PAGE_SIZE);
            segments.push(Segment { start, bytes: count as u64 * PAGE_SIZE });
        }
        Some(segments)
    }

    /// Makes a buffer of memory that was taken. If it cannot be shown, the memory is given back.
    fn add(&mut self, segments: Vec<Segment>) -> Option<RunId> {
        let Some(view) = self.show(&segments) else {
            self.give_back(&segments);
            return None;
        };
        Some(self.insert(segments, Memory::Own(view)))
    }

    /// Shows memory to the CPU, as zeroes.
    fn show(&mut self, segments: &[Segment]) -> Option<View> {
        let view = self.window.map(&frames(segments))?;
        // SAFETY: the view is `bytes` of mapped memory that nobody else sees yet.
        unsafe { view.pointer().write_bytes(0, view.bytes()) };
        Some(view)
    }

    fn give_back(&mut self, segments: &[Segment]) {
        for segment in segments {
            let first = (segment.start.get() - self.place.start.get()) / PAGE_SIZE;
            let end = first + segment.bytes / PAGE_SIZE;
            self.pages.give_back(first as usize..end as usize);
        }
    }
}

impl BufferRuns for Runs {
    fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let segments = self.take(usize::try_from(bytes / PAGE_SIZE).ok()?)?;
        self.add(segments)
    }

    fn alloc_contiguous_run(
        &mut self,
        bytes: u64,
        limit: PhysAddr,
    ) -> Result<RunId, ContiguityError> {
        if bytes > LONGEST_PIECE {
            return Err(ContiguityError::TooLong);
        }
        let count = (bytes / PAGE_SIZE) as usize;
        let piece = self.pages.take(count, count.next_power_of_two(), From::Bottom);
        let first = piece.ok_or(ContiguityError::OutOfMemory)?;
        let start = PhysAddr::new(self.place.start.get() + first as u64 * PAGE_SIZE);
        let segment = Segment { start, bytes };
        // It was the lowest.
        if start.get() + (bytes - 1) > limit.get() {
            self.give_back(&[segment]);
            return Err(ContiguityError::AboveLimit);
        }
        self.add(vec![segment]).ok_or(ContiguityError::OutOfMemory)
    }

    fn longest_piece(&self) -> u64 {
        LONGEST_PIECE
    }

    fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
        self.alloc_run(bytes)
    }

    fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
        let mut segments = Vec::new();
        cut(self.segments(whole), offset, bytes, &mut segments)?;
        let view = self.show(&segments)?;
        Some(self.insert(segments, Memory::Part(view)))
    }

    fn set_cache_type(&mut self, run: RunId, cache: CacheType) -> CacheType {
        match self.runs.get(run.0 as usize).and_then(Option::as_ref) {
            Some(Run { memory: Memory::Own(view) | Memory::Part(view), .. }) => {
                self.window.set_cache_type(view, cache);
                cache
            }
            _ => CacheType::WriteBack,
        }
    }

    fn free_run(&mut self, run: RunId) {
        let known = self.runs.get_mut(run.0 as usize).and_then(Option::take);
        let Some(Run { segments, memory }) = known else {
            panic!("{run:?} is freed, which does not exist");
        };
        match memory {
            Memory::Own(view) => {
                self.window.unmap(view);
                self.give_back(&segments);
            }
            Memory::Part(view) => self.window.unmap(view),
            Memory::Drivers(_) => {}
        }
    }

    #[inline]
    fn segments(&self, run: RunId) -> &[Segment] {
        self.get(run).map_or(&[], |run| &run.segments)
    }
}

/// The pages of these pieces, in order.
fn frames(segments: &[Segment]) -> Vec<PhysAddr> {
    let pages = |segment: &Segment| {
        let start = segment.start.get();
        (start..start + segment.bytes).step_by(PAGE_SIZE as usize).map(PhysAddr::new)
    };
    segments.iter().flat_map(pages).collect()
}
