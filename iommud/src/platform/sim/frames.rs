//! Which table frames are given out.

use std::collections::BTreeSet;

/// The frames of an arena by number. The first is the header and always given out.
#[derive(Debug)]
pub struct FrameBook {
    live: Vec<bool>,
    free: Vec<usize>,
    /// Frames from here on were never given out.
    fresh: usize,
    count: usize,
    limit: usize,
    /// Whether those freed first are given out first.
    late: bool,
    header: usize,
    inherited: Option<Inherited>,
    /// How many frames are in use by nobody, and not free either: what was set aside.
    aside: usize,
}

/// What a predecessor had: nothing before `end` is given out.
#[derive(Debug)]
struct Inherited {
    end: usize,
    /// What it had in use, and nobody has kept.
    left: BTreeSet<usize>,
    /// What was free.
    free: Vec<usize>,
}

impl FrameBook {
    /// A book over this many frames.
    pub fn new(frames: usize) -> Self {
        let mut book = Self {
            live: vec![false; frames],
            free: Vec::new(),
            fresh: 0,
            count: 0,
            limit: frames,
            header: 0,
            inherited: None,
            late: false,
            aside: 0,
        };
        book.take();
        book
    }

    /// A frame that nobody holds, of those that were freed if there are any: the last, unless they are
    /// [reused late](Self::reuse_late).
    pub fn take(&mut self) -> Option<usize> {
        if self.count >= self.limit {
            return None;
        }
        let freed = match self.late {
            true if !self.free.is_empty() => Some(self.free.remove(0)),
            _ => self.free.pop(),
        };
        let frame = match freed {
            Some(frame) => frame,
            None => {
                let frame = self.fresh;
                self.live.get(frame)?;
                self.fresh += 1;
                frame
            }
        };
        self.live[frame] = true;
        self.count += 1;
        Some(frame)
    }

    /// This many frames in a row that nobody holds, the first a multiple of their number rounded up to a power of
    /// two: the lowest there are. `None` for no frames.
    pub fn take_run(&mut self, frames: usize) -> Option<usize> {
        let align = frames.checked_next_power_of_two().filter(|_| frames > 0)?;
        if self.count.checked_add(frames)? > self.limit {
            return None;
        }
        let is_free = |first: &usize| {
            let run = first.checked_add(frames).and_then(|end| self.live.get(*first..end));
            run.is_some_and(|run| run.iter().all(|live| !live))
        };
        let from = self.inherited.as_ref().map_or(0, |inherited| inherited.end);
        let mut places = (0..self.live.len()).step_by(align).filter(|first| *first >= from);
        let first = places.find(is_free)?;
        let run = first..first + frames;
        self.free.retain(|frame| !run.contains(frame));
        self.free.extend(self.fresh..first);
        self.fresh = self.fresh.max(run.end);
        self.live[run].fill(true);
        self.count += frames;
        Some(first)
    }

    /// Takes a frame back. `false` if it was not given out, or is the header.
    pub fn put_back(&mut self, frame: usize) -> bool {
        let is_left = self.inherited.as_ref().is_some_and(|it| it.left.contains(&frame));
        if frame == self.header || is_left || !self.is_live(frame) {
            return false;
        }
        self.live[frame] = false;
        self.count -= 1;
        self.free_list(frame).push(frame);
        true
    }

    /// Where a frame goes that is free from now on.
    fn free_list(&mut self, frame: usize) -> &mut Vec<usize> {
        match &mut self.inherited {
            Some(inherited) if frame < inherited.end => &mut inherited.free,
            _ => &mut self.free,
        }
    }

    /// The header.
    pub fn header(&self) -> usize {
        self.header
    }

    /// Makes all that is given out a predecessor's, and everything that ever was none of what is given out.
    pub fn inherit(&mut self) {
        let before = self.inherited.take();
        let left = (0..self.fresh).filter(|frame| self.live[*frame] && *frame != self.header);
        let left = left.collect();
        let mut free = core::mem::take(&mut self.free);
        free.extend(before.into_iter().flat_map(|before| before.free));
        self.inherited = Some(Inherited { end: self.fresh, left, free });
    }

    /// Whether a predecessor's frames are still to be decided about.
    pub fn has_inherited(&self) -> bool {
        self.inherited.is_some()
    }

    /// Keeps a frame that a predecessor had in use. `false` if it had not, or it is kept already.
    pub fn keep(&mut self, frame: usize) -> bool {
        self.inherited.as_mut().is_some_and(|inherited| inherited.left.remove(&frame))
    }

    /// Frees what a predecessor had and nobody has kept: which of it was in use.
    pub fn settle(&mut self) -> Vec<usize> {
        let Some(Inherited { left, free, .. }) = self.inherited.take() else { return Vec::new() };
        self.free.extend(free);
        self.aside = 0;
        let left: Vec<usize> = left.into_iter().collect();
        for frame in &left {
            self.put_back(*frame);
        }
        left
    }

    /// Never gives out again what a predecessor had: the header is another then.
    pub fn set_aside(&mut self) {
        let Some(Inherited { left, .. }) = self.inherited.take() else { return };
        // The old header, too. What was set aside before is part of what is left.
        self.aside = left.len() + 1;
        if let Some(header) = self.take() {
            self.header = header;
        }
    }

    /// Whether a frame is given out.
    pub fn is_live(&self, frame: usize) -> bool {
        self.live.get(frame).is_some_and(|&live| live)
    }

    /// How many are, the header not counted.
    pub fn count(&self) -> usize {
        self.count - 1 - self.aside
    }

    /// From now on those freed first are given out first, so that each is free for as long as may be.
    pub fn reuse_late(&mut self) {
        self.late = true;
    }

    /// Those that nobody holds, but for what was never given out.
    pub fn free(&self) -> impl Iterator<Item = usize> {
        self.free.iter().copied()
    }

    /// Gives out no more than this many at a time, the header not counted.
    pub fn limit(&mut self, frames: usize) {
        self.limit = frames.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_reused_last_first_and_run_out() {
        let mut book = FrameBook::new(3);
        assert_eq!((book.take(), book.take(), book.take()), (Some(1), Some(2), None));
        assert!(book.put_back(1) && book.put_back(2));
        assert_eq!((book.count(), book.take()), (0, Some(2)));
        book.limit(1);
        assert_eq!(book.take(), None);
    }

    #[test]
    fn reused_late_they_come_in_the_order_in_which_they_were_freed() {
        let mut book = FrameBook::new(4);
        book.reuse_late();
        assert_eq!([(); 3].map(|()| book.take()), [Some(1), Some(2), Some(3)]);
        assert!(book.put_back(2) && book.put_back(1));
        assert_eq!(book.free().collect::<Vec<_>>(), [2, 1]);
        assert_eq!([(); 3].map(|()| book.take()), [Some(2), Some(1), None]);
    }

    #[test]
    fn a_run_is_aligned_to_its_size_and_loses_no_frame() {
        let mut book = FrameBook::new(16);
        assert_eq!((book.take_run(3), book.take_run(0), book.take_run(16)), (Some(4), None, None));
        assert_eq!(book.count(), 3);
        let singles: Vec<_> = core::iter::from_fn(|| book.take()).collect();
        assert_eq!(singles, [3, 2, 1, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        book.limit(0);
        assert_eq!(book.take_run(1), None);
    }

    #[test]
    fn r2_nothing_of_a_predecessor_is_given_out_before_it_is_settled() {
        let mut book = FrameBook::new(16);
        let taken: Vec<_> = core::iter::from_fn(|| book.take()).take(4).collect();
        assert!(book.put_back(taken[1]));
        book.inherit();
        assert!(book.has_inherited());
        assert!(book.keep(taken[0]) && !book.keep(taken[0]), "once");
        assert!(!book.keep(taken[1]) && !book.keep(0) && !book.keep(9), "they were not in use");
        assert_eq!((book.take(), book.take_run(2)), (Some(5), Some(6)));
        assert!(!book.put_back(taken[2]), "it is nobody's to give back");
        assert!(book.put_back(taken[0]), "what is kept is as others");
        assert_eq!(book.take(), Some(8), "but not given out again yet");
        assert_eq!(book.settle(), [taken[2], taken[3]]);
        assert_eq!(book.count(), 4);
        let mut again: Vec<_> = (0..4).filter_map(|_| book.take()).collect();
        again.sort_unstable();
        assert_eq!(again, taken);
    }

    #[test]
    fn r2_what_is_set_aside_is_never_given_out_and_the_header_is_another() {
        let mut book = FrameBook::new(8);
        let taken = book.take().unwrap();
        book.inherit();
        book.set_aside();
        assert!(!book.has_inherited());
        assert_eq!((book.header(), book.count()), (2, 0));
        assert!(book.is_live(taken) && book.is_live(0));
        let rest: Vec<_> = core::iter::from_fn(|| book.take()).collect();
        assert_eq!(rest, [3, 4, 5, 6, 7]);
    }

    #[test]
    fn what_is_set_aside_over_and_over_is_counted_once() {
        let mut book = FrameBook::new(8);
        book.take().unwrap();
        for _ in 0..3 {
            book.inherit();
            book.set_aside();
            assert_eq!(book.count(), 0);
        }
        book.inherit();
        assert_eq!((book.settle().len(), book.count()), (4, 0), "the first, and three headers");
    }

    #[test]
    fn what_was_not_given_out_cannot_be_put_back() {
        let mut book = FrameBook::new(3);
        assert!(!book.put_back(0) && !book.put_back(1) && !book.put_back(9));
        let frame = book.take().unwrap();
        assert!(book.put_back(frame) && !book.put_back(frame));
    }
}
