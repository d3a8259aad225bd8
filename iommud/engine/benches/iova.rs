//! I/O addresses: our allocator, and those of published crates that give out ranges of numbers.
//!
//! `cargo bench -p iommu-engine --bench iova`. Compare within one run. Ours keeps a guard page behind each range, finds what
//! is held by address, and knows masks and reserved ranges; the others do none of that.

use std::collections::VecDeque;
use std::ops::Range;

use buddy_system_allocator::FrameAllocator;
use divan::Bencher;
use dma_types::{Iova, PAGE_SIZE};
use iommu_engine::iova::{IovaAllocator, IovaRequest};
use range_alloc::RangeAllocator;
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

/// The pages of the space.
const SPACE: u64 = 1 << 34;

/// How often ranges come and go in a call.
const STEPS: usize = 1024;

/// How many ranges stay in the long-lived mix. Some of the others look at each of them in turn.
const STAYING: usize = 2000;

fn main() {
    divan::main();
}

/// What gives out ranges of pages.
trait Allocator {
    fn new() -> Self;
    fn alloc(&mut self, pages: u64) -> u64;
    fn free(&mut self, start: u64, pages: u64);
}

struct Ours(IovaAllocator);

impl Allocator for Ours {
    fn new() -> Self {
        Self(IovaAllocator::new(Iova::new(SPACE * PAGE_SIZE - 1)))
    }

    fn alloc(&mut self, pages: u64) -> u64 {
        self.0.alloc(IovaRequest::new(pages * PAGE_SIZE)).expect("room").get() / PAGE_SIZE
    }

    fn free(&mut self, start: u64, pages: u64) {
        self.0.free(Iova::new(start * PAGE_SIZE), pages * PAGE_SIZE).expect("live");
    }
}

struct RangeAlloc(RangeAllocator<u64>);

impl Allocator for RangeAlloc {
    fn new() -> Self {
        Self(RangeAllocator::new(0..SPACE))
    }

    fn alloc(&mut self, pages: u64) -> u64 {
        self.0.allocate_range(pages).expect("room").start
    }

    fn free(&mut self, start: u64, pages: u64) {
        self.0.free_range(Range { start, end: start + pages });
    }
}

struct VmAllocator(AddressAllocator);

impl Allocator for VmAllocator {
    fn new() -> Self {
        // It is for bytes, and looks two of them to each side of what is freed.
        Self(AddressAllocator::new(PAGE_SIZE, (SPACE - 1) * PAGE_SIZE).expect("a space"))
    }

    fn alloc(&mut self, pages: u64) -> u64 {
        let bytes = pages * PAGE_SIZE;
        let range = self.0.allocate(bytes, PAGE_SIZE, AllocPolicy::FirstMatch).expect("room");
        range.start() / PAGE_SIZE
    }

    fn free(&mut self, start: u64, pages: u64) {
        let (first, end) = (start * PAGE_SIZE, (start + pages) * PAGE_SIZE);
        let range = RangeInclusive::new(first, end - 1).expect("a range");
        self.0.free(&range).expect("live");
    }
}

struct Buddy(FrameAllocator<35>);

impl Allocator for Buddy {
    fn new() -> Self {
        let mut buddy = FrameAllocator::new();
        buddy.add_frame(0, SPACE as usize);
        Self(buddy)
    }

    fn alloc(&mut self, pages: u64) -> u64 {
        self.0.alloc(pages as usize).expect("room") as u64
    }

    fn free(&mut self, start: u64, pages: u64) {
        self.0.dealloc(start as usize, pages as usize);
    }
}

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

/// A ring of 128 buffers of a page: the oldest goes, and a new one comes.
#[divan::bench(types = [Ours, RangeAlloc, VmAllocator, Buddy], sample_count = 200)]
fn ring<A: Allocator>(bencher: Bencher<'_, '_>) {
    let mut allocator = A::new();
    let mut ring: VecDeque<u64> = (0..128).map(|_| allocator.alloc(1)).collect();
    bencher.bench_local(|| {
        for _ in 0..STEPS {
            let oldest = ring.pop_front().expect("a buffer");
            allocator.free(oldest, 1);
            ring.push_back(allocator.alloc(1));
        }
    });
}

/// 256 buffers of 1 to 32 pages, of which any goes and another comes.
#[divan::bench(types = [Ours, RangeAlloc, VmAllocator, Buddy], sample_count = 200)]
fn random_sizes<A: Allocator>(bencher: Bencher<'_, '_>) {
    churn::<A>(bencher, 0, 256);
}

/// The same beside 2,000 that stay, with holes between them.
#[divan::bench(types = [Ours, RangeAlloc, VmAllocator, Buddy], sample_count = 20, sample_size = 1)]
fn long_lived_mix<A: Allocator>(bencher: Bencher<'_, '_>) {
    churn::<A>(bencher, STAYING, 256);
}

fn churn<A: Allocator>(bencher: Bencher<'_, '_>, staying: usize, coming: usize) {
    let (mut allocator, mut random) = (A::new(), Random(1));
    let take = |allocator: &mut A, random: &mut Random| {
        let pages = 1 + random.below(32);
        (allocator.alloc(pages), pages)
    };
    let mut all: Vec<_> = (0..2 * staying).map(|_| take(&mut allocator, &mut random)).collect();
    // Every other one goes again.
    for (start, pages) in all.drain(..).step_by(2) {
        allocator.free(start, pages);
    }
    let mut live: Vec<_> = (0..coming).map(|_| take(&mut allocator, &mut random)).collect();
    bencher.bench_local(|| {
        for _ in 0..STEPS {
            let place = random.below(coming as u64) as usize;
            let (start, pages) = live[place];
            allocator.free(start, pages);
            live[place] = take(&mut allocator, &mut random);
        }
    });
}
