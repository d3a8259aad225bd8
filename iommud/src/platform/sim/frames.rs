//! Which table frames are given out.

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
}

impl FrameBook {
    /// A book over this many frames.
    pub fn new(frames: usize) -> Self {
        let live = vec![false; frames];
        let mut book =
            Self { live, free: Vec::new(), fresh: 0, count: 0, limit: frames, late: false };
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
        let first = (0..self.live.len()).step_by(align).find(is_free)?;
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
        if frame == 0 || !self.is_live(frame) {
            return false;
        }
        self.live[frame] = false;
        self.count -= 1;
        self.free.push(frame);
        true
    }

    /// Whether a frame is given out.
    pub fn is_live(&self, frame: usize) -> bool {
        self.live.get(frame).is_some_and(|&live| live)
    }

    /// How many are, the header not counted.
    pub fn count(&self) -> usize {
        self.count - 1
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
    fn what_was_not_given_out_cannot_be_put_back() {
        let mut book = FrameBook::new(3);
        assert!(!book.put_back(0) && !book.put_back(1) && !book.put_back(9));
        let frame = book.take().unwrap();
        assert!(book.put_back(frame) && !book.put_back(frame));
    }
}
