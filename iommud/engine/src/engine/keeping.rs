//! What units have yet to confirm of memory that is kept from the unconfined.
//!
//! Memory that goes into an arena was within reach of devices that the policy leaves unconfined, until their units
//! have confirmed that they have forgotten it (rule R2). A unit that fails before never will: that memory is not
//! mapped for anybody any more. All other memory is as before.

use alloc::vec::Vec;

use crate::completion::{Completion, Progress};
use crate::platform::{Segment, TableFrames};
use crate::segments;

/// Memory that unconfined devices may reach until units have confirmed that they do not.
#[derive(Debug)]
struct Kept {
    /// It may be in an arena, or come into one.
    memory: Vec<Segment>,
    /// Whether tables are in it, as of the last [update](Keeping::update).
    has_tables: bool,
    completion: Completion,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// What may be confirmed.
    waiting: Vec<Kept>,
    /// What was not, and never will be.
    lost: Option<Kept>,
    /// What cannot be taken out of the tables of the unconfined, for want of frames. It is tried again.
    unkept: Option<Kept>,
}

impl Keeping {
    /// Whether there is none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.lost.is_none() && self.unkept.is_none()
    }

    /// Notes memory that unconfined devices reach until `completion`, and no longer: it has been taken out of their table, or
    /// they out of their domain.
    pub(super) fn add(&mut self, memory: Vec<Segment>, completion: Completion) {
        if !memory.is_empty() && completion != Completion::none() {
            self.waiting.push(Kept { memory, has_tables: false, completion });
        }
    }

    /// Notes all the memory of arenas that is in a table of the unconfined still.
    pub(super) fn set_unkept(&mut self, memory: Vec<Segment>) {
        let completion = Completion::never();
        let unkept = Kept { memory, has_tables: false, completion };
        self.unkept = (!unkept.memory.is_empty()).then_some(unkept);
    }

    /// Forgets what is confirmed, and looks where tables are now.
    pub(super) fn update(
        &mut self,
        frames: &impl TableFrames,
        arenas: &[Segment],
        progress: impl Fn(&Completion) -> Progress,
    ) {
        let mut lost = self.lost.take().map_or_else(Vec::new, |lost| lost.memory);
        self.waiting.retain(|kept| match progress(&kept.completion) {
            Progress::Done => false,
            Progress::Pending => true,
            Progress::Failed => {
                // What was lost before is not lost twice.
                lost.extend(segments::without(&kept.memory, &lost));
                false
            }
        });
        let (has_tables, completion) = (false, Completion::never());
        self.lost = (!lost.is_empty()).then_some(Kept { memory: lost, has_tables, completion });
        // An arena is of tables or of runs.
        let tables = arenas.iter().filter(|arena| frames.table(arena.start).is_some());
        let tables: Vec<Segment> = tables.copied().collect();
        for kept in self.waiting.iter_mut().chain(&mut self.lost).chain(&mut self.unkept) {
            kept.has_tables = segments::overlap(&tables, &kept.memory);
        }
    }

    /// From when on the unconfined do not reach this memory; nor any tables, if they are of interest.
    #[inline]
    pub(super) fn completion(&self, memory: &[Segment], tables: bool) -> Completion {
        let mut completion = Completion::none();
        if self.is_empty() {
            return completion;
        }
        for kept in self.waiting.iter().chain(&self.lost).chain(&self.unkept) {
            if tables && kept.has_tables || segments::overlap(&kept.memory, memory) {
                completion.join(&kept.completion);
            }
        }
        completion
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use dma_types::PhysAddr;

    use super::*;
    use crate::completion::{Ticket, UnitId};
    use crate::fakes::FakeFrames;

    const FIRST: Completion = Completion::one(UnitId(0), Ticket(1));
    const SECOND: Completion = Completion::one(UnitId(1), Ticket(2));

    fn segment(start: u64, bytes: u64) -> Segment {
        Segment { start: PhysAddr::new(start), bytes }
    }

    /// An arena of tables, and one of runs.
    fn arenas(frames: &FakeFrames) -> [Segment; 2] {
        [Segment { start: frames.header_frame(), bytes: 0x3000 }, segment(0x8000, 0x8000)]
    }

    #[test]
    fn r2_only_what_was_kept_back_lately_is_waited_for() {
        let frames = FakeFrames::new(2);
        let [tables, runs] = arenas(&frames);
        let mut keeping = Keeping::default();
        keeping.add(vec![segment(0x8000, 0x2000)], FIRST);
        keeping.add(vec![segment(0xa000, 0x1000)], SECOND);
        keeping.update(&frames, &[tables, runs], |_| Progress::Pending);
        assert_eq!(keeping.completion(&[segment(0x9000, 0x1000)], true), FIRST);
        assert_eq!(keeping.completion(&[segment(0xa000, 0x1000)], true), SECOND);
        assert_eq!(keeping.completion(&[segment(0xb000, 0x1000)], true), Completion::none());
        // Which frames a table is made of is not told: none of the arena's are to be within reach.
        keeping.add(vec![segment(tables.start.get() + 0x2000, 0x1000)], FIRST);
        keeping.update(&frames, &[runs], |_| Progress::Pending);
        assert_eq!(keeping.completion(&[], true), Completion::none(), "there are none yet");
        keeping.update(&frames, &[tables, runs], |_| Progress::Pending);
        assert_eq!(keeping.completion(&[], false), Completion::none());
        assert_eq!(keeping.completion(&[], true), FIRST);
        keeping.update(&frames, &[tables, runs], |it| match *it == FIRST {
            true => Progress::Done,
            false => Progress::Pending,
        });
        assert_eq!(keeping.completion(&[tables, runs], true), SECOND);
    }

    #[test]
    fn r2_what_is_never_confirmed_is_lost_wherever_it_is() {
        let frames = FakeFrames::new(2);
        let [tables, runs] = arenas(&frames);
        let mut keeping = Keeping::default();
        for _ in 0..3 {
            keeping.add(vec![segment(0x8000, 0x2000)], FIRST);
            keeping.update(&frames, &[tables, runs], |_| Progress::Failed);
        }
        let never = Completion::never();
        assert_eq!(keeping.completion(&[segment(0xa000, 0x1000)], true), Completion::none());
        assert_eq!(keeping.lost.as_ref().map(|lost| lost.memory.len()), Some(1));
        // It goes, and may come back.
        keeping.update(&frames, &[tables], |_| Progress::Done);
        assert_eq!(keeping.completion(&[segment(0x8000, 0x1000)], true), never);
        assert!(!keeping.is_empty());
        keeping.add(vec![tables], FIRST);
        keeping.update(&frames, &[tables, runs], |_| Progress::Failed);
        assert_eq!(keeping.completion(&[], true), never, "no more tables can be made");
    }

    #[test]
    fn r1_what_is_within_reach_still_is_never_out_of_it() {
        let frames = FakeFrames::new(2);
        let arenas = arenas(&frames);
        let mut keeping = Keeping::default();
        keeping.set_unkept(vec![segment(0x8000, 0x1000), arenas[0]]);
        assert!(!keeping.is_empty());
        keeping.update(&frames, &arenas, |_| Progress::Done);
        assert_eq!(keeping.completion(&[segment(0x8000, 0x1000)], false), Completion::never());
        assert_eq!(keeping.completion(&[], true), Completion::never());
        keeping.set_unkept(vec![]);
        assert!(keeping.is_empty());
    }
}
