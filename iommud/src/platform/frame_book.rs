//! Which frames of an arena are taken, in which chunk an address lies, and which chunks can go.
//!
//! A chunk may be *inherited*: a daemon before this one made it, and left some of its frames in use. Until it is known
//! which, none of them is given out.

use dma_types::{PAGE_SIZE, PhysAddr};

/// The book of an arena that grows by chunks, each contiguous in physical memory. `M` is what the keeper of
/// the arena needs to reach a chunk's memory.
#[derive(Debug)]
pub struct FrameBook<M> {
    /// Ordered by where they start. They never overlap, because the system gave them all out.
    chunks: Vec<Chunk<M>>,
    /// The chunk that had a free frame last.
    recent: usize,
}

#[derive(Debug)]
struct Chunk<M> {
    start: PhysAddr,
    frames: usize,
    memory: M,
    /// How many of its frames are not taken.
    free: usize,
    /// One bit a frame: set when taken. Bits past the last frame are set for good.
    taken: Box<[u64]>,
    /// Every word before this one is full.
    search_from: usize,
    /// While nobody knows which frames of it are in use, those that are known to be, a bit each. All count as taken.
    kept: Option<Box<[u64]>>,
}

impl<M> Default for FrameBook<M> {
    fn default() -> Self {
        Self { chunks: Vec::new(), recent: 0 }
    }
}

impl<M: Copy> FrameBook<M> {
    /// Adds a chunk of free frames.
    pub fn add(&mut self, start: PhysAddr, frames: usize, memory: M) {
        let taken = unused(frames);
        let (free, search_from, kept) = (frames, 0, None);
        self.insert(Chunk { start, frames, memory, free, taken, search_from, kept });
    }

    /// Adds a chunk of which nobody knows which frames are in use.
    pub fn add_inherited(&mut self, start: PhysAddr, frames: usize, memory: M) {
        let kept = Some(unused(frames));
        let taken = vec![u64::MAX; frames.div_ceil(64)].into_boxed_slice();
        let (free, search_from) = (0, 0);
        self.insert(Chunk { start, frames, memory, free, taken, search_from, kept });
    }

    fn insert(&mut self, chunk: Chunk<M>) {
        let at = self.chunks.partition_point(|it| it.start < chunk.start);
        self.chunks.insert(at, chunk);
        self.recent = at;
    }

    /// Notes that these frames of an inherited chunk are in use. `false`, and nothing is noted, if one of them is in none or
    /// was noted before.
    pub fn keep(&mut self, start: PhysAddr, frames: usize) -> bool {
        let Some((at, first)) = self.locate(start) else { return false };
        let Some(chunk) = self.chunks.get_mut(at) else { return false };
        let Some(end) = first.checked_add(frames).filter(|end| *end <= chunk.frames) else {
            return false;
        };
        let Some(kept) = &mut chunk.kept else { return false };
        let is_kept = |kept: &[u64], index: usize| {
            kept.get(index / 64).is_none_or(|word| word & 1 << (index % 64) != 0)
        };
        if (first..end).any(|index| is_kept(kept, index)) {
            return false;
        }
        for index in first..end {
            if let Some(word) = kept.get_mut(index / 64) {
                *word |= 1 << (index % 64);
            }
        }
        true
    }

    /// From now on all that was not noted of inherited chunks is free.
    pub fn settle(&mut self) {
        for chunk in &mut self.chunks {
            if let Some(kept) = chunk.kept.take() {
                let taken: u32 = kept.iter().map(|word| word.count_ones()).sum();
                let beyond = kept.len() * 64 - chunk.frames;
                chunk.free = chunk.frames + beyond - taken as usize;
                (chunk.taken, chunk.search_from) = (kept, 0);
            }
        }
        self.recent = 0;
    }

    /// Forgets inherited chunks.
    pub fn set_aside(&mut self) {
        self.chunks.retain(|chunk| chunk.kept.is_none());
        self.recent = 0;
    }

    /// Takes a free frame: its address, its chunk's memory and its number in the chunk. `None` when all are
    /// taken, and a chunk must be added first.
    pub fn take(&mut self) -> Option<(PhysAddr, M, usize)> {
        let count = self.chunks.len();
        for step in 0..count {
            let at = (self.recent + step) % count;
            if let Some(chunk) = self.chunks.get_mut(at)
                && let Some(index) = chunk.take()
            {
                self.recent = at;
                let frame = chunk.start.checked_add(index as u64 * PAGE_SIZE)?;
                return Some((frame, chunk.memory, index));
            }
        }
        None
    }

    /// Takes this many free frames that follow one another, starting at a multiple of their size rounded up to
    /// a power of two: the first one's address, its chunk's memory and its number in the chunk. `None` when no
    /// chunk has them, and for no frames.
    pub fn take_run(&mut self, frames: usize) -> Option<(PhysAddr, M, usize)> {
        let align = (frames as u64).checked_next_power_of_two()?.checked_mul(PAGE_SIZE)?;
        self.chunks.iter_mut().find_map(|chunk| {
            let index = chunk.take_run(frames, align)?;
            let first = chunk.start.checked_add(index as u64 * PAGE_SIZE)?;
            Some((first, chunk.memory, index))
        })
    }

    /// Gives a frame back. Nothing happens for an address that is no frame of the arena, or not taken.
    pub fn give_back(&mut self, frame: PhysAddr) {
        let Some((at, index)) = self.locate(frame) else { return };
        if let Some(chunk) = self.chunks.get_mut(at) {
            chunk.give_back(index);
        }
    }

    /// How many frames there are, taken or not.
    pub fn frames(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.frames).sum()
    }

    /// Removes a chunk of which no frame is taken, as long as there is a larger one, or one as large, of which
    /// none is: where it starts. So one is kept for those who come next, and a chunk is not given back and
    /// asked for in turns.
    pub fn remove_spare(&mut self) -> Option<PhysAddr> {
        let idle = || self.chunks.iter().enumerate().filter(|(_, it)| it.free == it.frames);
        let (_, at) = idle().map(|(at, chunk)| (chunk.frames, at)).min()?;
        if idle().count() < 2 {
            return None;
        }
        self.recent = 0;
        Some(self.chunks.remove(at).start)
    }

    /// The memory of the chunk that holds this frame, and the frame's number in it; `None` for an address
    /// that is no frame of the arena.
    #[inline]
    pub fn find(&self, frame: PhysAddr) -> Option<(M, usize)> {
        // Most arenas are one chunk.
        let recent = self.chunks.get(self.recent)?;
        if let Some(index) = recent.number(frame) {
            return Some((recent.memory, index));
        }
        let (at, index) = self.locate(frame)?;
        Some((self.chunks.get(at)?.memory, index))
    }

    /// The place of a frame: which chunk, and which frame of it.
    #[inline(never)]
    fn locate(&self, frame: PhysAddr) -> Option<(usize, usize)> {
        let at = self.chunks.partition_point(|chunk| chunk.start <= frame).checked_sub(1)?;
        let index = self.chunks.get(at)?.number(frame)?;
        Some((at, index))
    }
}

impl<M> Chunk<M> {
    /// The number of a frame, if it is one of these.
    #[inline]
    fn number(&self, frame: PhysAddr) -> Option<usize> {
        // Bytes that are no whole pages make an enormous number of these.
        let bytes = frame.get().wrapping_sub(self.start.get());
        let index = bytes.rotate_right(PAGE_SIZE.trailing_zeros());
        (index < self.frames as u64).then_some(index as usize)
    }

    fn take(&mut self) -> Option<usize> {
        let from = self.taken.get(self.search_from..)?;
        let Some(step) = from.iter().position(|&word| word != u64::MAX) else {
            self.search_from = self.taken.len();
            return None;
        };
        self.search_from += step;
        let word = self.taken.get_mut(self.search_from)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.free = self.free.saturating_sub(1);
        Some(self.search_from * 64 + bit as usize)
    }

    fn take_run(&mut self, frames: usize, align: u64) -> Option<usize> {
        if self.free < frames {
            return None;
        }
        let skipped = self.start.get().checked_next_multiple_of(align)? - self.start.get();
        let first = usize::try_from(skipped / PAGE_SIZE).ok()?;
        let step = usize::try_from(align / PAGE_SIZE).ok()?;
        let mut places = (first..self.frames.checked_sub(frames)? + 1).step_by(step);
        let index =
            places.find(|&at| frames > 0 && (at..at + frames).all(|it| self.is_free(it)))?;
        for taken in index..index + frames {
            if let Some(word) = self.taken.get_mut(taken / 64) {
                *word |= 1 << (taken % 64);
            }
        }
        self.free = self.free.saturating_sub(frames);
        Some(index)
    }

    fn is_free(&self, index: usize) -> bool {
        self.taken.get(index / 64).is_some_and(|word| word & 1 << (index % 64) == 0)
    }

    fn give_back(&mut self, index: usize) {
        if let Some(kept) = &mut self.kept {
            if let Some(word) = kept.get_mut(index / 64) {
                *word &= !(1 << (index % 64));
            }
            return;
        }
        if self.is_free(index) {
            return;
        }
        if let Some(word) = self.taken.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
            self.free += 1;
            self.search_from = self.search_from.min(index / 64);
        }
    }
}

/// The bits of that many frames of which none is in use.
fn unused(frames: usize) -> Box<[u64]> {
    let mut bits = vec![0; frames.div_ceil(64)].into_boxed_slice();
    if let (Some(last), used @ 1..) = (bits.last_mut(), frames % 64) {
        *last = u64::MAX << used;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn book(chunks: &[(u64, usize)]) -> FrameBook<char> {
        let mut book = FrameBook::default();
        for (&(start, frames), name) in chunks.iter().zip('a'..) {
            book.add(PhysAddr::new(start), frames, name);
        }
        book
    }

    #[test]
    fn r2_every_frame_is_given_out_once_until_it_comes_back() {
        let mut book = book(&[(0x40_0000, 70), (0x10_0000, 3), (0x80_0000, 64)]);
        let mut seen = BTreeSet::new();
        while let Some((frame, memory, index)) = book.take() {
            assert!(seen.insert(frame), "{frame} twice");
            assert_eq!(book.find(frame), Some((memory, index)));
        }
        assert_eq!(seen.len(), 70 + 3 + 64);

        let back = PhysAddr::new(0x40_0000 + 69 * 0x1000);
        book.give_back(back);
        assert_eq!(book.take(), Some((back, 'a', 69)));
        assert_eq!(book.take(), None);
    }

    #[test]
    fn r5_an_address_outside_the_arena_is_no_frame() {
        let mut book = book(&[(0x10_0000, 2), (0x20_0000, 1)]);
        for outside in [0, 0xf_f000, 0x10_0800, 0x10_2000, 0x1f_f000, 0x20_1000, u64::MAX] {
            assert_eq!(book.find(PhysAddr::new(outside)), None, "{outside:#x}");
            book.give_back(PhysAddr::new(outside));
        }
        assert_eq!(book.find(PhysAddr::new(0x10_1000)), Some(('a', 1)));
        assert_eq!(book.find(PhysAddr::new(0x20_0000)), Some(('b', 0)));
    }

    #[test]
    fn a_frame_given_back_twice_is_free_once() {
        let mut book = book(&[(0, 2)]);
        let (first, ..) = book.take().unwrap();
        book.give_back(first);
        book.give_back(first);
        assert!(book.take().is_some());
        assert!(book.take().is_some());
        assert_eq!(book.take(), None);
    }

    #[test]
    fn a_run_of_frames_is_free_adjacent_and_aligned_to_its_size() {
        // A chunk that starts between two multiples of 8 frames, and one that is too small.
        let mut book = book(&[(0x10_3000, 40), (0x80_0000, 4)]);
        assert_eq!(book.take(), Some((PhysAddr::new(0x80_0000), 'b', 0)));
        assert_eq!(book.take_run(8), Some((PhysAddr::new(0x10_8000), 'a', 5)));
        assert_eq!(book.take_run(5), Some((PhysAddr::new(0x11_0000), 'a', 13)));
        assert_eq!(book.take_run(2), Some((PhysAddr::new(0x10_4000), 'a', 1)));
        assert_eq!(book.take_run(0), None);
        assert_eq!(book.take_run(32), None);
        assert_eq!(book.take_run(usize::MAX), None);
        // Every other frame is still given out once.
        let mut rest = 0;
        while book.take().is_some() {
            rest += 1;
        }
        assert_eq!(rest, 40 - 8 - 5 - 2 + 3);
        for frame in 0..8 {
            book.give_back(PhysAddr::new(0x10_8000 + frame * 0x1000));
        }
        assert_eq!(book.take_run(8), Some((PhysAddr::new(0x10_8000), 'a', 5)));
    }

    #[test]
    fn idle_chunks_go_except_the_largest() {
        let mut book = book(&[(0x10_0000, 4), (0x20_0000, 16), (0x40_0000, 8)]);
        assert_eq!(book.frames(), 28);
        let held = book.take_run(8).unwrap();
        assert_eq!(held.0, PhysAddr::new(0x20_0000));
        assert_eq!(book.remove_spare(), Some(PhysAddr::new(0x10_0000)));
        // The last idle one stays, for those who come next.
        assert_eq!(book.remove_spare(), None);
        assert_eq!(book.find(PhysAddr::new(0x10_0000)), None);
        // Given back twice is given back once: a chunk of which a frame is taken never counts as idle.
        for frame in [0, 1, 2, 3, 4, 5, 6, 6] {
            book.give_back(PhysAddr::new(0x20_0000 + frame * 0x1000));
        }
        assert_eq!(book.remove_spare(), None);
        book.give_back(PhysAddr::new(0x20_0000 + 7 * 0x1000));
        assert_eq!(book.remove_spare(), Some(PhysAddr::new(0x40_0000)));
        assert_eq!((book.remove_spare(), book.frames()), (None, 16));
        assert_eq!(book.take(), Some((PhysAddr::new(0x20_0000), 'b', 0)));
    }

    #[test]
    fn r2_frames_are_counted_however_they_are_taken() {
        let mut book = book(&[(0, 100), (0x20_0000, 100)]);
        let (one, ..) = book.take().unwrap();
        let (run, ..) = book.take_run(64).unwrap();
        assert_eq!(one, PhysAddr::new(0x20_0000));
        assert_eq!(run, PhysAddr::new(0));
        assert_eq!(book.remove_spare(), None);
        book.give_back(one);
        for frame in 0..64 {
            book.give_back(PhysAddr::new(frame * 0x1000));
        }
        assert!(book.remove_spare().is_some());
        assert_eq!(book.remove_spare(), None);
        assert_eq!(book.frames(), 100);
    }

    #[test]
    fn r2_no_inherited_frame_is_given_out_before_all_are_known_that_are_in_use() {
        let mut book = book(&[(0x10_0000, 1)]);
        let frame = |index: u64| PhysAddr::new(0x40_0000 + index * 0x1000);
        book.add_inherited(frame(0), 70, 'i');
        assert!(book.keep(frame(3), 2) && book.keep(frame(69), 1) && book.keep(frame(60), 0));
        // Once each, none outside, and none that is not inherited.
        assert!(!book.keep(frame(3), 1) && !book.keep(frame(2), 2) && !book.keep(frame(69), 2));
        assert!(!book.keep(frame(70), 1) && !book.keep(frame(60), usize::MAX));
        assert!(!book.keep(PhysAddr::new(0x10_0000), 1));
        assert!(book.keep(frame(10), 1));
        book.give_back(frame(10));
        assert_eq!(book.find(frame(5)), Some(('i', 5)));
        assert_eq!(book.take(), Some((PhysAddr::new(0x10_0000), 'a', 0)));
        assert_eq!((book.take(), book.take_run(2)), (None, None));
        book.settle();
        let mut given = BTreeSet::new();
        while let Some((frame, ..)) = book.take() {
            assert!(given.insert(frame), "{frame} twice");
        }
        assert_eq!(given.len(), 70 - 3);
        assert!([3, 4, 69].iter().all(|index| !given.contains(&frame(*index))));
        // From there on they are as any others.
        book.give_back(frame(4));
        assert_eq!(book.take(), Some((frame(4), 'i', 4)));
    }

    #[test]
    fn inherited_frames_that_are_set_aside_are_no_frames_of_the_book() {
        let mut book = book(&[(0x10_0000, 2)]);
        book.add_inherited(PhysAddr::new(0x40_0000), 2, 'i');
        assert!(book.keep(PhysAddr::new(0x40_0000), 1));
        book.set_aside();
        assert_eq!((book.find(PhysAddr::new(0x40_0000)), book.frames()), (None, 2));
        assert!(book.take().is_some());
        // One of which none is in use goes as any other, once that is known.
        book.add_inherited(PhysAddr::new(0x80_0000), 4, 'j');
        book.add(PhysAddr::new(0xc0_0000), 4, 'k');
        assert_eq!(book.remove_spare(), None);
        book.settle();
        assert_eq!(book.remove_spare(), Some(PhysAddr::new(0x80_0000)));
    }

    #[test]
    fn an_empty_book_has_no_frame() {
        assert_eq!(book(&[]).take(), None);
        assert_eq!(book(&[(0, 0)]).take(), None);
    }
}
