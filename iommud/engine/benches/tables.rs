//! Page tables: ours, those of published crates, and the limit, which is the stores or loads alone.
//!
//! `cargo bench -p iommu-engine --bench tables`. Compare within one run.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/others.rs"]
mod others;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use divan::{Bencher, black_box};
use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};
use iommu_engine::amdvi::page_table::AmdV1;
use iommu_engine::platform::Segment;
use iommu_engine::table::{Format, PageTable};
use iommu_engine::vtd::context::AddressWidth;
use iommu_engine::vtd::second_stage::SecondStage;

use self::frames::Frames;

/// How many pages of 4 KiB are mapped at a time.
const PAGES: [usize; 4] = [1, 64, 512, 4096];

/// Where they are mapped: at the start of a table, with a neighbour before, so that the tables above stay.
const PLACE: u64 = 0x40_0000_0000;

/// Where they are in memory: such that no larger page fits.
const MEMORY: u64 = 0x1_0000_1000;

/// How many addresses are translated at a time.
const LOOKUPS: usize = 1024;

fn main() {
    divan::main();
}

fn second_stage() -> SecondStage {
    SecondStage::new(AddressWidth::Bits48, 0x4020_1000, true)
}

fn amd() -> AmdV1 {
    AmdV1::new(4, 0x4020_1000)
}

fn memory(pages: usize) -> [Segment; 1] {
    [Segment { start: PhysAddr::new(MEMORY), bytes: pages as u64 * PAGE_SIZE }]
}

/// A table with tables for all that will be mapped: the last page of each is.
fn table<F: Format>(format: F, frames: &mut Frames) -> PageTable<F> {
    let mut table = PageTable::new(format, frames).expect("a frame");
    for number in 0..16 {
        let last = Iova::new(PLACE + (number << 21) + 511 * PAGE_SIZE);
        table.map(frames, last, &memory(1), Access::ReadWrite).expect("room");
    }
    table
}

/// Addresses in no order, of pages that are mapped.
fn addresses(count: usize, pages: u64) -> Vec<u64> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    (0..count).map(|_| PLACE + next() % pages * PAGE_SIZE).collect()
}

/// Pages that are in tables with the one that is always mapped: all but the last of each.
fn span(pages: usize) -> u64 {
    pages.min(511) as u64 * PAGE_SIZE
}

/// Maps and unmaps 511 pages in each table, or fewer.
fn ours<F: Format>(bencher: Bencher<'_, '_>, format: F, pages: usize, timed: Timed) {
    let mut frames = Frames::new(64);
    let table = table(format, &mut frames);
    let both = RefCell::new((table, frames));
    let parts = pages.div_ceil(512) as u64;
    let map = || {
        let (table, frames) = &mut *both.borrow_mut();
        for part in 0..parts {
            let memory = [Segment { start: PhysAddr::new(MEMORY), bytes: span(pages) }];
            let iova = Iova::new(PLACE + (part << 21));
            table.map(frames, iova, &memory, Access::ReadWrite).expect("room");
        }
    };
    let unmap = || {
        let (table, frames) = &mut *both.borrow_mut();
        for part in 0..parts {
            let iova = Iova::new(PLACE + (part << 21));
            table.unmap(frames, iova, span(pages), &mut Vec::new()).expect("mapped");
        }
    };
    timed.bench(bencher, map, unmap);
}

/// Which of two is timed: each undoes the other.
#[derive(Clone, Copy)]
enum Timed {
    Map,
    Unmap,
}

impl Timed {
    fn bench(self, bencher: Bencher<'_, '_>, map: impl Fn(), unmap: impl Fn()) {
        match self {
            Self::Map => {
                map();
                bencher.with_inputs(&unmap).bench_local_values(|()| map());
            }
            Self::Unmap => {
                bencher.with_inputs(&map).bench_local_values(|()| unmap());
            }
        }
    }
}

#[divan::bench_group(sample_size = 1, sample_count = 500)]
mod map {
    use super::*;

    /// The limit: a loop that stores as many words.
    #[divan::bench(args = PAGES)]
    fn plain_stores(bencher: Bencher<'_, '_>, pages: usize) {
        let words: Vec<AtomicU64> = (0..pages).map(|_| AtomicU64::new(0)).collect();
        bencher.bench_local(|| store_all(&words, black_box(MEMORY | 3)));
    }

    /// A function of its own, so that the word is in a register.
    #[inline(never)]
    fn store_all(words: &[AtomicU64], mut word: u64) {
        for place in words {
            place.store(word, Ordering::Release);
            word += PAGE_SIZE;
        }
    }

    #[divan::bench(args = PAGES)]
    fn vtd(bencher: Bencher<'_, '_>, pages: usize) {
        ours(bencher, second_stage(), pages, Timed::Map);
    }

    #[divan::bench(args = PAGES)]
    fn amdvi(bencher: Bencher<'_, '_>, pages: usize) {
        ours(bencher, amd(), pages, Timed::Map);
    }

    #[divan::bench(args = PAGES)]
    fn x86_64(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::OffsetTable::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Map.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }

    #[divan::bench(args = PAGES)]
    fn page_table_multiarch(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::Multiarch::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Map.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }

    #[divan::bench(args = PAGES)]
    fn aarch64_paging(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::Aarch64::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Map.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }
}

#[divan::bench_group(sample_size = 1, sample_count = 500)]
mod unmap {
    use super::*;

    #[divan::bench(args = PAGES)]
    fn vtd(bencher: Bencher<'_, '_>, pages: usize) {
        ours(bencher, second_stage(), pages, Timed::Unmap);
    }

    #[divan::bench(args = PAGES)]
    fn amdvi(bencher: Bencher<'_, '_>, pages: usize) {
        ours(bencher, amd(), pages, Timed::Unmap);
    }

    #[divan::bench(args = PAGES)]
    fn x86_64(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::OffsetTable::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Unmap.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }

    #[divan::bench(args = PAGES)]
    fn page_table_multiarch(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::Multiarch::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Unmap.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }

    #[divan::bench(args = PAGES)]
    fn aarch64_paging(bencher: Bencher<'_, '_>, pages: usize) {
        let table = RefCell::new(others::Aarch64::new(PLACE));
        let map = || table.borrow_mut().map(PLACE, MEMORY, pages);
        Timed::Unmap.bench(bencher, map, || table.borrow_mut().unmap(PLACE, pages));
    }
}

/// Addresses of 511 pages, in no order.
#[divan::bench_group(sample_count = 500)]
mod translate {
    use super::*;

    /// The limit for four levels: as many loads, each of which depends on the one before and is checked to be in the arena.
    /// A link is the number of a frame. Nothing is looked at but where the next one is.
    #[divan::bench]
    fn chase_of_four(bencher: Bencher<'_, '_>) {
        chase::<_, 4>(bencher, second_stage(), number, |link| link as usize);
    }

    /// And for three.
    #[divan::bench]
    fn chase_of_three(bencher: Bencher<'_, '_>) {
        chase::<_, 3>(bencher, amd(), number, |link| link as usize);
    }

    /// The same by the entries as they are: the frame's number is made of the address in them.
    #[divan::bench]
    fn chase_of_four_entries(bencher: Bencher<'_, '_>) {
        chase::<_, 4>(bencher, second_stage(), |word| word, |word| number(word) as usize);
    }

    #[divan::bench]
    fn chase_of_three_entries(bencher: Bencher<'_, '_>) {
        chase::<_, 3>(bencher, amd(), |word| word, |word| number(word) as usize);
    }

    /// The number in the arena of the frame that an entry names.
    #[inline(always)]
    fn number(word: u64) -> u64 {
        (word & 0xf_ffff_ffff_f000).wrapping_sub(frames::BASE) >> 12
    }

    /// Follows addresses through so many levels of a table, of whose entries `link` was made, by `next`.
    fn chase<F: Format, const LEVELS: u32>(
        bencher: Bencher<'_, '_>,
        format: F,
        link: impl Fn(u64) -> u64,
        next: impl Fn(u64) -> usize,
    ) {
        let mut frames = Frames::new(64);
        let root = number(table(format, &mut frames).root().get()) as usize;
        let addresses = addresses(LOOKUPS, 511);
        let tables = frames.words().iter();
        let links: Vec<[u64; 512]> = tables
            .map(|table| {
                table.each_ref().map(|word| match word.load(Ordering::Relaxed) {
                    word if word & 0xf_ffff_ffff_f000 < MEMORY => link(word),
                    page => page,
                })
            })
            .collect();
        bencher.bench_local(|| chase_all::<LEVELS>(&links, root, &addresses, &next));
    }

    /// One after the other, as [`translate_all`] does.
    #[inline(never)]
    fn chase_all<const LEVELS: u32>(
        links: &[[u64; 512]],
        root: usize,
        addresses: &[u64],
        next: &impl Fn(u64) -> usize,
    ) -> u64 {
        let follow = |address: &u64| {
            let link =
                |table: usize, level| links[table][(address >> (12 + 9 * level)) as usize & 511];
            link((1..LEVELS).rev().fold(root, |table, level| next(link(table, level))), 0)
        };
        addresses.iter().map(follow).fold(0, u64::wrapping_add)
    }

    /// A function of its own, so that what is the same for all addresses is known to be.
    #[inline(never)]
    fn translate_all<F: Format>(table: &PageTable<F>, frames: &Frames, addresses: &[u64]) -> u64 {
        let translate = |address: &u64| table.translate(frames, Iova::new(*address));
        let found = addresses.iter().map(|it| translate(it).map_or(0, |to| to.phys.get()));
        found.fold(0, u64::wrapping_add)
    }

    fn ours<F: Format>(bencher: Bencher<'_, '_>, format: F) {
        let mut frames = Frames::new(64);
        let mut table = table(format, &mut frames);
        let memory = memory(511);
        table.map(&mut frames, Iova::new(PLACE), &memory, Access::ReadWrite).expect("room");
        let addresses = addresses(LOOKUPS, 511);
        bencher.bench_local(|| translate_all(&table, &frames, &addresses));
    }

    #[divan::bench]
    fn vtd(bencher: Bencher<'_, '_>) {
        ours(bencher, second_stage());
    }

    #[divan::bench]
    fn amdvi(bencher: Bencher<'_, '_>) {
        ours(bencher, amd());
    }

    #[divan::bench]
    fn x86_64(bencher: Bencher<'_, '_>) {
        let mut table = others::OffsetTable::new(PLACE);
        table.map(PLACE, MEMORY, 511);
        let addresses = addresses(LOOKUPS, 511);
        let translate = |address: &u64| table.translate(*address);
        bencher.bench_local(|| addresses.iter().map(translate).fold(0, u64::wrapping_add));
    }

    #[divan::bench]
    fn page_table_multiarch(bencher: Bencher<'_, '_>) {
        let mut table = others::Multiarch::new(PLACE);
        table.map(PLACE, MEMORY, 511);
        let addresses = addresses(LOOKUPS, 511);
        let translate = |address: &u64| table.translate(*address);
        bencher.bench_local(|| addresses.iter().map(translate).fold(0, u64::wrapping_add));
    }
    #[divan::bench]
    fn aarch64_paging(bencher: Bencher<'_, '_>) {
        let mut table = others::Aarch64::new(PLACE);
        table.map(PLACE, MEMORY, 511);
        let addresses = addresses(LOOKUPS, 511);
        let translate = |address: &u64| table.translate(*address);
        bencher.bench_local(|| addresses.iter().map(translate).fold(0, u64::wrapping_add));
    }
}
