//! What is out of use but may not be used again yet (rule R2).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use dma_types::{Iova, PhysAddr};

use crate::completion::{Completion, Progress, UnitId};
use crate::domain::DomainKey;
use crate::iova::IovaRange;
use crate::ledger::Slot;
use crate::payer::Payer;
use crate::platform::RunId;
use crate::unit::DomainId;

/// Things that hardware may still know, and what it has to confirm before they are free.
#[derive(Debug, Default)]
pub struct Retired {
    /// What must be confirmed first.
    pub completion: Completion,
    /// Frames of tables, and who pays for each.
    pub frames: Vec<(PhysAddr, Payer)>,
    /// I/O addresses of a domain, with their length.
    pub range: Option<(DomainKey, Iova, u64)>,
    /// Who pays for them.
    pub payer: Payer,
    /// The lengths of addresses of a domain that is gone, and who pays for them.
    pub addresses: Vec<(Payer, u64)>,
    /// Domain ids of units.
    pub domain_ids: Vec<(UnitId, DomainId)>,
    /// A client's memory.
    pub run: Option<RetiredRun>,
}

impl Retired {
    /// On whose accounts it is.
    pub fn payers(&self) -> impl Iterator<Item = Payer> {
        let tables = self.frames.iter().map(|(_, payer)| *payer);
        let range = self.range.map(|_| self.payer);
        let addresses = self.addresses.iter().map(|(payer, _)| *payer);
        tables.chain(range).chain(addresses).chain(self.run.map(|run| run.payer))
    }
}

/// A client's memory on its way to being free.
#[derive(Clone, Copy, Debug)]
pub struct RetiredRun {
    /// The memory.
    pub run: RunId,
    /// Its length.
    pub bytes: u64,
    /// On whose account it is until it is free.
    pub payer: Payer,
    /// What the ledger has of it: struck out when it is free and not before, so that a daemon that is started anew
    /// gives it to nobody.
    pub record: Option<Slot>,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub struct RetiredList {
    waiting: VecDeque<Retired>,
    /// What a unit failed to confirm. The unit may hold it for good, so it stays for good.
    lost: Vec<Retired>,
}

impl RetiredList {
    /// Puts something in.
    pub fn put(&mut self, retired: Retired) {
        self.waiting.push_back(retired);
    }

    /// Looks at the thing that has not been looked at for longest, of those that are not lost: takes it out if
    /// hardware has confirmed it.
    pub fn look(&mut self, progress: impl Fn(&Completion) -> Progress) -> Option<Retired> {
        match progress(&self.waiting.front()?.completion) {
            Progress::Done => return self.waiting.pop_front(),
            Progress::Pending => self.waiting.rotate_left(1),
            Progress::Failed => self.lost.extend(self.waiting.pop_front()),
        }
        None
    }

    /// Whether these addresses of a domain wait for what hardware may confirm.
    pub fn holds(&self, domain: DomainKey, addresses: IovaRange) -> bool {
        let wanted = Some((domain, addresses.start, addresses.bytes));
        self.waiting.iter().any(|retired| retired.range == wanted)
    }

    /// What hardware has yet to confirm of a domain's addresses.
    pub fn lasting(&self, domain: DomainKey) -> Completion {
        let mut lasting = Completion::none();
        let of_it = |retired: &&Retired| retired.range.is_some_and(|(key, ..)| key == domain);
        self.waiting.iter().filter(of_it).for_each(|retired| lasting.join(&retired.completion));
        lasting
    }

    /// Everything that waits, what is lost included.
    pub fn iter(&self) -> impl Iterator<Item = &Retired> {
        self.waiting.iter().chain(&self.lost)
    }

    /// How many things there are to look at.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many things wait, those that are lost included.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.lost.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Ticket;

    #[test]
    fn r2_nothing_comes_out_before_its_unit_confirmed_and_a_failed_unit_holds_nobody_up() {
        let mut list = RetiredList::default();
        let payer = Payer(1);
        for (unit, run) in [(0, 10), (1, 11), (1, 12)] {
            let completion = Completion::one(UnitId(unit), Ticket(run));
            let run = RetiredRun { run: RunId(run), bytes: 0x1000 * run, payer, record: None };
            list.put(Retired { completion, run: Some(run), ..Retired::default() });
        }
        let of = |list: &RetiredList, payer| {
            let runs = list.iter().filter_map(|retired| retired.run);
            let runs: Vec<_> = runs.filter(|run| run.payer == payer).map(|run| run.bytes).collect();
            (runs.len(), runs.iter().sum::<u64>())
        };
        assert_eq!(of(&list, payer), (3, 0x2_1000));
        assert_eq!(of(&list, Payer(2)), (0, 0));
        let failed_and_confirmed = |confirmed| {
            move |completion: &Completion| match completion.tickets().next() {
                Some((UnitId(0), _)) => Progress::Failed,
                Some((_, ticket)) if ticket > confirmed => Progress::Pending,
                _ => Progress::Done,
            }
        };
        let mut release = |confirmed| {
            let mut runs = Vec::new();
            for _ in 0..list.waiting() {
                let found = list.look(failed_and_confirmed(Ticket(confirmed)));
                runs.extend(found.and_then(|retired| retired.run).map(|run| run.run.0));
            }
            runs
        };
        assert_eq!(release(10), [0; 0]);
        assert_eq!(release(12), [11, 12]);
        assert_eq!(release(12), [0; 0]);
        assert_eq!((list.len(), list.is_empty()), (1, false));
        assert_eq!(of(&list, payer), (1, 0xa000), "what is lost is on its account for good");
        assert_eq!(list.waiting(), 0, "what is lost is not looked at again and again");
    }
}
