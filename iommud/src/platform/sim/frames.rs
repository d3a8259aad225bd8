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
}

impl FrameBook {
    /// A book over this many frames.
    pub fn new(frames: usize) -> Self {
        let mut book =
            Self { live: vec![false; frames], free: Vec::new(), fresh: 0, count: 0, limit: frames };
        book.take();
        book
    }

    /// A frame that nobody holds, the one freed last if there is any.
    pub fn take(&mut self) -> Option<usize> {
        if self.count >= self.limit {
            return None;
        }
        let frame = match self.free.pop() {
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
    fn what_was_not_given_out_cannot_be_put_back() {
        let mut book = FrameBook::new(3);
        assert!(!book.put_back(0) && !book.put_back(1) && !book.put_back(9));
        let frame = book.take().unwrap();
        assert!(book.put_back(frame) && !book.put_back(frame));
    }
}
