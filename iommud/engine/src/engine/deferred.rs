//! Unmaps that units are told of together.
//!
//! Where the policy says so, an unmap is not followed by an invalidation of its own. Unmaps are gathered, and
//! each unit is told once to forget all of a domain. Until it has confirmed that, nothing that was unmapped is
//! used again (rule R2), exactly as if each had been told alone; only the client is answered sooner.

use alloc::collections::BTreeMap;
use core::time::Duration;

use dma_types::Iova;

use super::{Engine, unit_mut};
use crate::completion::{Completion, Progress, Ticket};
use crate::domain::DomainKey;
use crate::platform::{Instant, Platform};
use crate::unit::{Changed, Touched};

/// How many unmaps are gathered at the most.
pub const MOST_GATHERED: usize = 128;

/// How long the first of them waits at the most.
pub const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// The unmaps that no unit has been told of, and the batches of them that units have not confirmed.
///
/// Each domain has batches of its own, for a unit that is stuck is to hold nothing up but what it knows. Those of
/// one domain are confirmed in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// The domains that the unmaps are of, and the batch of each.
    domains: BTreeMap<DomainKey, Ticket>,
    /// How many unmaps those are together.
    gathered: usize,
    since: Instant,
    /// The number of the last batch.
    last: Ticket,
    /// What units have yet to confirm of each batch; `None` while they have not been told of it.
    waiting: BTreeMap<Ticket, Option<Completion>>,
}

impl Deferred {
    /// Adds so many unmaps: what their batch is waited for with.
    pub(super) fn gather(&mut self, domain: DomainKey, now: Instant, unmaps: usize) -> Completion {
        if self.gathered == 0 {
            self.since = now;
        }
        self.gathered += unmaps;
        let batch = *self.domains.entry(domain).or_insert_with(|| {
            self.last.0 += 1;
            self.waiting.insert(self.last, None);
            self.last
        });
        Completion::gathered(domain, batch)
    }

    /// Whether units should be told now.
    fn is_due(&self, now: Instant) -> bool {
        self.gathered >= MOST_GATHERED || now.since(self.since) >= LONGEST_WAIT
    }

    /// Whether there are unmaps that no unit has been told of.
    pub(super) fn holds_any(&self) -> bool {
        self.gathered > 0
    }

    /// Whether there are some of this domain's.
    pub(super) fn holds(&self, domain: DomainKey) -> bool {
        self.domains.contains_key(&domain)
    }

    /// How a batch stands.
    pub(super) fn progress(
        &self,
        batch: Ticket,
        units: impl Fn(&Completion) -> Progress,
    ) -> Progress {
        match self.waiting.get(&batch) {
            None => Progress::Done,
            Some(None) => Progress::Pending,
            Some(Some(completion)) => units(completion),
        }
    }

    /// Forgets the batches of which this is true.
    fn forget(&mut self, done: impl Fn(&Completion) -> bool) {
        self.waiting.retain(|_, completion| !completion.as_ref().is_some_and(&done));
    }
}

impl Engine {
    /// Tells the units of unmaps that were gathered, if it is time.
    pub(super) fn tell_if_due(&mut self, platform: &mut impl Platform) {
        if self.deferred.holds_any() && self.deferred.is_due(platform.now()) {
            self.tell_gathered(platform);
        }
    }

    /// [Polls](Self::poll) after the units were told of all unmaps that were gathered: for who waits for something to be
    /// free.
    pub fn hasten(&mut self, platform: &mut impl Platform) {
        self.tell_gathered(platform);
        self.poll(platform);
    }

    /// Tells the units of all unmaps that were gathered.
    pub(super) fn tell_gathered(&mut self, platform: &mut impl Platform) {
        let everything = Changed { start: Iova::new(0), bytes: u64::MAX, touched: Touched::Tables };
        for (key, batch) in core::mem::take(&mut self.deferred.domains) {
            let mut completion = Completion::none();
            for (unit, id) in self.domains.get(&key).iter().flat_map(|it| it.memberships()) {
                let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
                completion.add(unit, hardware.invalidate(platform, id, &[everything]));
            }
            self.deferred.waiting.insert(batch, Some(completion));
        }
        self.deferred.gathered = 0;
    }

    /// Forgets the batches that all units have confirmed.
    pub(super) fn forget_batches(&mut self) {
        let Self { deferred, units, .. } = self;
        deferred.forget(|completion| super::units_progress(units, completion) == Progress::Done);
    }
}
