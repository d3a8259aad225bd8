//! What is out of use but may not be used again yet (rule R2).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use dma_types::{Iova, PhysAddr};

use crate::completion::{Completion, Progress, UnitId};
use crate::domain::DomainKey;
use crate::platform::RunId;
use crate::unit::DomainId;

/// Things that hardware may still know, and what it has to confirm before they are free.
#[derive(Debug, Default)]
pub struct Retired {
    /// What must be confirmed first.
    pub completion: Completion,
    /// Frames of tables.
    pub frames: Vec<PhysAddr>,
    /// I/O addresses of a domain, with their length.
    pub range: Option<(DomainKey, Iova, u64)>,
    /// Domain ids of units.
    pub domain_ids: Vec<(UnitId, DomainId)>,
    /// A client's buffer.
    pub run: Option<RunId>,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub struct Quarantine {
    waiting: VecDeque<Retired>,
}

impl Quarantine {
    /// Puts something in.
    pub fn put(&mut self, retired: Retired) {
        self.waiting.push_back(retired);
    }

    /// Takes out something that hardware has confirmed, if there is any.
    ///
    /// What waits for a unit that failed stays for good: the unit may hold it for good. It does not hold
    /// up what waits for others.
    pub fn take(&mut self, progress: impl Fn(&Completion) -> Progress) -> Option<Retired> {
        let done = |retired: &Retired| progress(&retired.completion) == Progress::Done;
        let index = self.waiting.iter().position(done)?;
        self.waiting.remove(index)
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Ticket;

    #[test]
    fn r2_nothing_comes_out_before_its_unit_confirmed_and_a_failed_unit_holds_nobody_up() {
        let mut quarantine = Quarantine::default();
        for (unit, run) in [(0, 10), (1, 11), (1, 12)] {
            let completion = Completion::one(UnitId(unit), Ticket(run));
            quarantine.put(Retired { completion, run: Some(RunId(run)), ..Retired::default() });
        }
        let failed_and_confirmed = |confirmed| {
            move |completion: &Completion| match completion.tickets().next() {
                Some((UnitId(0), _)) => Progress::Failed,
                Some((_, ticket)) if ticket > confirmed => Progress::Pending,
                _ => Progress::Done,
            }
        };
        let mut take = |confirmed| {
            let retired = quarantine.take(failed_and_confirmed(Ticket(confirmed)));
            retired.and_then(|retired| retired.run).map(|run| run.0)
        };
        assert_eq!(take(10), None);
        assert_eq!(take(11), Some(11));
        assert_eq!(take(11), None);
        assert_eq!(take(12), Some(12));
        assert_eq!((quarantine.len(), quarantine.is_empty()), (1, false));
    }
}
