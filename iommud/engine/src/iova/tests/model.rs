//! Random requests, checked against a list of pages that says of each whether it is free.

use alloc::vec::Vec;
use alloc::{format, vec};

use dma_types::Iova;
use proptest::prelude::*;

use crate::iova::{Guard, IovaAllocator, IovaError, IovaRange, IovaRequest};

/// How many pages are played with: some large ones. All others are reserved first.
const PLAYED: usize = 2560;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Free,
    Reserved,
    Allocated,
    Guard,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Pages, alignment as a power of two of pages, limit as pages from the start of those played with.
    Alloc(usize, u32, usize),
    AllocAt(usize, usize, Guard),
    /// Which of the live allocations.
    Free(prop::sample::Index),
    /// All of them, by address.
    FreeAll,
    /// The same at one go.
    FreeTogether,
    FreeWrongly(usize, usize),
    Reserve(usize, usize),
    /// Of one of the live allocations.
    Note(prop::sample::Index),
    Forget(prop::sample::Index),
    /// Into a piece of at most so many pages, and the rest.
    Split(prop::sample::Index, usize),
}

/// With a number noted of each allocation.
type Space = IovaAllocator<u64>;

fn step() -> impl Strategy<Value = Step> {
    let guard = prop_oneof![Just(Guard::None), Just(Guard::Page)];
    let limit = prop_oneof![3 => Just(PLAYED), 1 => Just(PLAYED / 2), 1 => 0..PLAYED];
    let pages = prop_oneof![4 => 1..6usize, 1 => 1..80usize, 1 => 511..514usize, 1 => 1..700usize];
    // As large pages are aligned, too.
    let order = prop_oneof![3 => 0..7u32, 1 => 8..11u32];
    prop_oneof![
        12 => (pages.clone(), order, limit).prop_map(|(n, order, end)| Step::Alloc(n, order, end)),
        4 => (0..PLAYED + 4, pages, guard).prop_map(|(at, n, guard)| Step::AllocAt(at, n, guard)),
        12 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::FreeAll),
        1 => Just(Step::FreeTogether),
        1 => (0..PLAYED, 0..6usize).prop_map(|(at, n)| Step::FreeWrongly(at, n)),
        1 => (0..PLAYED, 1..5usize).prop_map(|(at, n)| Step::Reserve(at, n)),
        8 => any::<prop::sample::Index>().prop_map(Step::Note),
        2 => any::<prop::sample::Index>().prop_map(Step::Forget),
        8 => (any::<prop::sample::Index>(), 1..4usize).prop_map(|(at, n)| Step::Split(at, n)),
    ]
}

struct Model {
    /// The page of the space that page 0 of the model is.
    base: u64,
    /// The pages played with; the last is the guard that no space has.
    pages: Vec<Page>,
    /// First page, number of pages, number of guard pages.
    live: Vec<(usize, usize, usize)>,
    /// What is noted of each, if something is: no two have the same.
    notes: Vec<Option<u64>>,
    noted: u64,
}

impl Model {
    fn iova(&self, page: usize) -> Iova {
        Iova::new((self.base + page as u64) << 12)
    }

    fn is(&self, start: usize, end: usize, wanted: Page) -> bool {
        self.pages.get(start..end).is_some_and(|pages| pages.iter().all(|&page| page == wanted))
    }

    /// Whether `alloc` could use this place.
    fn suits(&self, start: usize, pages: usize, order: u32, end: usize) -> bool {
        (self.base + start as u64).is_multiple_of(1 << order)
            && start + pages <= end
            && self.is(start, start + pages + 1, Page::Free)
    }

    fn take(&mut self, start: usize, pages: usize, guards: usize) {
        self.pages[start..start + pages].fill(Page::Allocated);
        self.pages[start + pages..start + pages + guards].fill(Page::Guard);
        self.live.push((start, pages, guards));
        self.notes.push(None);
    }

    fn give(&mut self, number: usize) -> (usize, usize) {
        let (start, pages, guards) = self.live.swap_remove(number);
        self.notes.swap_remove(number);
        self.pages[start..start + pages + guards].fill(Page::Free);
        (start, pages)
    }

    /// What is noted, by address.
    fn notes(&self) -> Vec<(IovaRange, u64)> {
        let live = self.live.iter().zip(&self.notes);
        let noted = live.filter_map(|(&(start, pages, _), note)| {
            Some((IovaRange::new(self.iova(start), bytes(pages)), (*note)?))
        });
        let mut noted: Vec<_> = noted.collect();
        noted.sort_by_key(|(range, _)| range.start);
        noted
    }

    /// The model's free pages as ranges, as [`IovaAllocator::free_pages`] gives them.
    fn free_ranges(&self) -> Vec<core::ops::Range<u64>> {
        let mut ranges: Vec<core::ops::Range<u64>> = vec![];
        for (page, _) in self.pages.iter().enumerate().filter(|&(_, &page)| page == Page::Free) {
            let page = self.base + page as u64;
            match ranges.last_mut() {
                Some(last) if last.end == page => last.end += 1,
                _ => ranges.push(page..page + 1),
            }
        }
        ranges
    }
}

fn bytes(pages: usize) -> u64 {
    (pages as u64) << 12
}

/// Does a step in both, and sees that they agree.
fn play(space: &mut Space, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Alloc(pages, order, end) => {
            let limit = Iova::new(model.iova(end).get().saturating_sub(1));
            let request = IovaRequest::new(bytes(pages)).aligned(bytes(1 << order)).below(limit);
            if let Some(idle) = space.idle_at_hand(&request) {
                // Taken with something noted of it, every other time.
                let start = (idle.iova().get() >> 12).wrapping_sub(model.base) as usize;
                prop_assert!(model.suits(start, pages, order, end), "{:?} does not suit", idle);
                if start.is_multiple_of(2) {
                    model.noted += 1;
                    idle.take_noted(model.noted);
                    model.take(start, pages, 1);
                    *model.notes.last_mut().unwrap() = Some(model.noted);
                    return Ok(());
                }
            }
            let place = |end| (0..PLAYED).any(|at| model.suits(at, pages, order, end));
            match space.alloc(request) {
                Ok(iova) => {
                    let start = (iova.get() >> 12).wrapping_sub(model.base) as usize;
                    prop_assert!(model.suits(start, pages, order, end), "{iova} does not suit");
                    model.take(start, pages, 1);
                }
                Err(IovaError::NoRoomUnderLimit { .. }) => {
                    prop_assert!(!place(end) && place(PLAYED));
                }
                Err(IovaError::NoRoom { .. }) => {
                    // With more ranges than are tried one by one, odd alignments may be missed.
                    let many = model.free_ranges().len() > 30 && order != 0;
                    prop_assert!(many || !place(PLAYED), "there is room for {step:?}");
                }
                Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
            }
        }
        Step::AllocAt(start, pages, guard) => {
            let guards = usize::from(guard == Guard::Page);
            let range = IovaRange::new(model.iova(start), bytes(pages));
            let free = start + pages <= PLAYED && model.is(start, start + pages, Page::Free);
            prop_assert_eq!(space.is_free(range), free);
            let result = space.alloc_at(range.start, range.bytes, guard);
            let fits = free && model.is(start, start + pages + guards, Page::Free);
            prop_assert_eq!(result.is_ok(), fits, "{:?}", result);
            if fits {
                model.take(start, pages, guards);
            }
        }
        Step::Free(index) => {
            if !model.live.is_empty() {
                let number = index.index(model.live.len());
                let note = model.notes[number];
                let (start, pages) = model.give(number);
                let (iova, bytes) = (model.iova(start), bytes(pages));
                for (iova, bytes) in [(iova, bytes + 4096), (iova, bytes + 1), (iova, bytes | 5)] {
                    prop_assert!(space.live_at_hand(iova, bytes).is_none());
                }
                prop_assert!(space.live_at_hand(Iova::new(iova.get() + 1), bytes).is_none());
                match space.live_at_hand(iova, bytes) {
                    Some(live) => {
                        prop_assert_eq!(Some(live.note()), note);
                        live.free();
                    }
                    None => prop_assert_eq!(space.free(iova, bytes), Ok(())),
                }
            }
        }
        Step::FreeAll => {
            while let Some((number, _)) = model.live.iter().enumerate().min_by_key(|(_, it)| it.0) {
                let (start, pages) = model.give(number);
                prop_assert_eq!(space.free(model.iova(start), bytes(pages)), Ok(()));
            }
        }
        Step::FreeTogether => {
            let mut ranges = Vec::new();
            while !model.live.is_empty() {
                let (start, pages) = model.give(0);
                ranges.push((model.iova(start), bytes(pages)));
            }
            ranges.sort_unstable();
            prop_assert_eq!(space.free_all(&ranges), Ok(()));
        }
        Step::Note(index) if !model.live.is_empty() => {
            let number = index.index(model.live.len());
            model.noted += 1;
            model.notes[number] = Some(model.noted);
            space.note(model.iova(model.live[number].0), model.noted);
        }
        Step::Forget(index) if !model.live.is_empty() => {
            let number = index.index(model.live.len());
            let (start, pages, _) = model.live[number];
            let found = space.find_noted(model.iova(start), bytes(pages));
            prop_assert_eq!(found.map(|(_, note)| note), model.notes[number].take());
            prop_assert!(space.find_noted(model.iova(start), bytes(pages + 1)).is_none());
            if let Some((place, _)) = found {
                space.forget(place);
            }
        }
        Step::Split(index, cut) if !model.live.is_empty() => {
            let number = index.index(model.live.len());
            let (start, pages, guards) = model.live[number];
            let cut = cut.min(pages - 1);
            if cut > 0 {
                space.split(model.iova(start), [bytes(cut), bytes(pages - cut)]);
                model.live[number] = (start, cut, 0);
                model.notes[number] = None;
                model.live.insert(number + 1, (start + cut, pages - cut, guards));
                model.notes.insert(number + 1, None);
            }
        }
        Step::Note(_) | Step::Forget(_) | Step::Split(..) => {
            // Of what is not live nothing can be noted.
            space.note(model.iova(0), 0);
        }
        Step::FreeWrongly(start, pages) => {
            let live = model.live.iter().any(|&(at, n, _)| (at, n) == (start, pages));
            if !live {
                prop_assert!(space.free(model.iova(start), bytes(pages)).is_err());
            }
        }
        Step::Reserve(start, pages) => {
            let end = (start + pages).min(PLAYED);
            let held = [Page::Allocated, Page::Guard];
            let refused = model.pages[start..end].iter().any(|page| held.contains(page));
            let result = space.reserve(IovaRange::new(model.iova(start), bytes(pages)));
            prop_assert_eq!(result.is_err(), refused);
            if !refused {
                model.pages[start..end].fill(Page::Reserved);
            }
        }
    }
    Ok(())
}

/// A space of which only [`PLAYED`] pages from `base` on, its last, are free.
fn start(base: u64) -> (Space, Model) {
    let end = (base + PLAYED as u64) << 12;
    let mut space = Space::with_notes(Iova::new(end - 1));
    if base > 0 {
        space.reserve(IovaRange::new(Iova::new(0), base << 12)).unwrap();
    }
    let pages = vec![Page::Free; PLAYED + 1];
    (space, Model { base, pages, live: vec![], notes: vec![], noted: 0 })
}

/// Where the pages played with may be: at zero, across the 4 GiB where searches begin, on both sides of a
/// 2 MiB boundary that is no other, and at the very end of the widest space.
fn base() -> impl Strategy<Value = u64> {
    let half = PLAYED as u64 / 2;
    prop_oneof![
        Just(0),
        Just((1 << 20) - half),
        Just(11 * 512 - half),
        Just((1 << 45) - PLAYED as u64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn r7_it_agrees_with_a_list_of_pages(
        base in base(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let (mut space, mut model) = start(base);
        for step in steps {
            play(&mut space, &mut model, step)?;
            prop_assert_eq!(space.allocations(), model.live.len() as u64);
            prop_assert!(space.noted_from(Iova::new(0)).eq(model.notes()));
        }
        for (range, note) in model.notes() {
            let last = range.last().unwrap();
            prop_assert_eq!(space.noted(range.start), Some((range.bytes, note)));
            prop_assert_eq!(space.noted_around(last), Some((range, note)));
            prop_assert_eq!(space.noted_around(Iova::new(last.get() + 1)).filter(|it| it.0 == range), None);
            prop_assert_eq!(space.noted(last), None);
        }
        let allocated: usize = model.live.iter().map(|&(_, pages, _)| pages).sum();
        let guards: usize = model.live.iter().map(|&(_, _, guards)| guards).sum();
        prop_assert_eq!(space.allocated_bytes(), bytes(allocated));
        prop_assert_eq!(space.guard_bytes(), bytes(guards));

        let mut live: Vec<IovaRange> = model
            .live
            .iter()
            .map(|&(start, pages, _)| IovaRange::new(model.iova(start), bytes(pages)))
            .collect();
        live.sort_by_key(|range| range.start);
        prop_assert!(space.allocated().eq(live));
        prop_assert_eq!(space.free_pages(), model.free_ranges());

        while !model.live.is_empty() {
            let (start, pages) = model.give(0);
            prop_assert_eq!(space.free(model.iova(start), bytes(pages)), Ok(()));
        }
        prop_assert_eq!((space.allocations(), space.allocated_bytes()), (0, 0));
        prop_assert_eq!(space.guard_bytes(), 0);
        prop_assert_eq!(space.free_pages(), model.free_ranges());
    }
}
