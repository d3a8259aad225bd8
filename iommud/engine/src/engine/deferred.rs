//! Changes of mappings that units are told of together.
//!
//! # One at a time
//!
//! A unit is asked one thing at a time for each client: while it has not confirmed what it was asked to forget for a client,
//! what that client unmaps is gathered, and asked at one go afterwards; so is what it maps, where units must be told of
//! that. So a client that floods a unit makes its own batches larger, and no other's wait longer: what others ask stands
//! behind one request of its at the most, for each client and unit.
//!
//! # Answered sooner
//!
//! Where the policy says so, an unmap is not followed by an invalidation of its own. Unmaps are gathered, and
//! each unit is told once to forget all of a domain. Until it has confirmed that, nothing that was unmapped is
//! used again (rule R2), exactly as if each had been told alone; only the client is answered sooner. Who waits for something
//! to be free, or forgotten, has the batches told that it waits for, and those of nobody else.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::Iova;

use super::Engine;
use super::units::{unit_mut, unit_progress, units_progress};
use crate::completion::{Completion, Progress, Ticket};
use crate::domain::{Domain, DomainKey};
use crate::payer::Payer;
use crate::platform::{Instant, Platform};
use crate::unit::{Changed, Touched};

/// How many changes are gathered at the most.
pub const MOST_GATHERED: usize = 128;

/// How long the first of them waits at the most.
pub const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// Whose changes wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// Those of all domains that were made for one client.
    Of(Payer),
    /// Those of a domain that was made for nobody.
    Alone(DomainKey),
}

/// A batch of changes of one domain that no unit has been told of.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    /// Its number.
    batch: Ticket,
    /// How many changes.
    changes: usize,
    /// Whether somebody waits for it, so that it is told as soon as it may be.
    is_awaited: bool,
}

impl Gathered {
    /// Somebody waits for it.
    fn want(&mut self) {
        self.is_awaited = true;
    }
}

/// The changes that no unit has been told of, and the batches of them that units have not confirmed.
///
/// Each domain has batches of its own, for a unit that is stuck is to hold nothing up but what it knows. Those of
/// one domain are confirmed in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// The domains that the changes are of, and the batch of each.
    domains: BTreeMap<DomainKey, Gathered>,
    /// How many changes those are together.
    gathered: usize,
    since: Instant,
    /// The number of the last batch.
    last: Ticket,
    /// What units have yet to confirm of each batch; `None` while they have not been told of it.
    waiting: BTreeMap<Ticket, Option<Completion>>,
    /// What each line's units were asked last, in the order of the lines.
    asked: Vec<(Line, Completion)>,
}

impl Deferred {
    /// Adds so many changes: what their batch is waited for with.
    pub(super) fn gather(
        &mut self,
        domain: DomainKey,
        now: Instant,
        changes: usize,
        is_awaited: bool,
    ) -> Completion {
        if self.gathered == 0 {
            self.since = now;
        }
        self.gathered += changes;
        let gathered = self.domains.entry(domain).or_insert_with(|| {
            self.last.0 += 1;
            self.waiting.insert(self.last, None);
            Gathered { batch: self.last, changes: 0, is_awaited: false }
        });
        gathered.changes += changes;
        gathered.is_awaited |= is_awaited;
        Completion::gathered(domain, gathered.batch)
    }

    /// Whether units should be told now of whatever there is.
    fn is_due(&self, now: Instant) -> bool {
        self.gathered >= MOST_GATHERED || now.since(self.since) >= LONGEST_WAIT
    }

    /// Whether there are changes that no unit has been told of.
    pub(super) fn holds_any(&self) -> bool {
        self.gathered > 0
    }

    /// Whether there are none, nor any that units have yet to confirm: who asks for something now asks for that alone.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.gathered == 0 && self.asked.is_empty()
    }

    /// Notes what a line's units were asked.
    pub(super) fn asked(&mut self, line: Line, completion: &Completion) {
        match self.place_of(line) {
            Ok(place) => self.asked[place].1.join(completion),
            Err(place) => self.asked.insert(place, (line, completion.clone())),
        }
    }

    /// What a line's units were asked last.
    fn asked_of(&self, line: Line) -> Option<&Completion> {
        self.place_of(line).ok().map(|place| &self.asked[place].1)
    }

    fn place_of(&self, line: Line) -> Result<usize, usize> {
        self.asked.binary_search_by_key(&line, |(line, _)| *line)
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

/// In which line the changes of a domain are.
pub(super) fn line_of(domain: &Domain, key: DomainKey) -> Line {
    match domain.client() {
        Payer::NOBODY => Line::Alone(key),
        client => Line::Of(client),
    }
}

impl Engine {
    /// Tells the units of what was gathered, if it is time or somebody waits for it.
    #[inline]
    pub(super) fn tell_if_due(&mut self, platform: &mut impl Platform) {
        if self.deferred.holds_any() {
            self.tell_due(platform);
        }
    }

    #[inline(never)]
    fn tell_due(&mut self, platform: &mut impl Platform) {
        let all = self.deferred.is_due(platform.now());
        self.tell_those(platform, |gathered| all || gathered.is_awaited);
    }

    /// [Polls](Self::poll) after the units were told of the batches of a completion: for who waits for it.
    pub fn hasten(&mut self, platform: &mut impl Platform, completion: &Completion) {
        let batches: BTreeSet<Ticket> = completion.batches().collect();
        let gathered = self.deferred.domains.values_mut();
        gathered.filter(|it| batches.contains(&it.batch)).for_each(Gathered::want);
        self.tell_those(platform, |gathered| gathered.is_awaited);
        self.poll(platform);
    }

    /// What units have yet to confirm before all is back that such payers have given up.
    pub fn owed_to(&self, whose: impl Fn(Payer) -> bool) -> Completion {
        let mut owed = Completion::none();
        let theirs = self.retired.iter().filter(|retired| retired.payers().any(&whose));
        theirs.for_each(|retired| owed.join(&retired.completion));
        owed
    }

    /// Tells the units of what was gathered of a domain, or as soon as they have confirmed what they were asked for the same
    /// client before.
    pub(super) fn tell_gathered(&mut self, platform: &mut impl Platform, key: DomainKey) {
        let Some(gathered) = self.deferred.domains.get_mut(&key) else { return };
        gathered.want();
        if !self.is_busy(key) {
            self.tell_of(platform, key);
        }
    }

    /// Whether a unit of a domain's has yet to confirm what it was asked for the same client: it is asked for no more then.
    #[inline]
    pub(super) fn is_busy(&self, key: DomainKey) -> bool {
        !self.deferred.asked.is_empty() && self.is_asked(key)
    }

    #[inline(never)]
    fn is_asked(&self, key: DomainKey) -> bool {
        let Some(domain) = self.domains.get(&key) else { return false };
        let asked = self.deferred.asked_of(line_of(domain, key));
        let mut open = asked.into_iter().flat_map(Completion::tickets).filter(|(unit, ticket)| {
            unit_progress(&self.units, *unit, *ticket) == Progress::Pending
        });
        open.any(|(unit, _)| domain.id_at(unit).is_some())
    }

    /// Tells the units of such batches, the oldest first, of clients for whom they are asked for nothing else.
    fn tell_those(&mut self, platform: &mut impl Platform, which: impl Fn(&Gathered) -> bool) {
        let those = self.deferred.domains.iter().filter(|(_, gathered)| which(gathered));
        let mut those: Vec<_> = those.map(|(key, gathered)| (gathered.batch, *key)).collect();
        those.sort_unstable();
        for (_, key) in those {
            if !self.is_busy(key) {
                self.tell_of(platform, key);
            }
        }
    }

    /// Tells the units of what was gathered of one domain.
    pub(super) fn tell_of(&mut self, platform: &mut impl Platform, key: DomainKey) {
        let everything = Changed { start: Iova::new(0), bytes: u64::MAX, touched: Touched::Tables };
        let Some(Gathered { batch, changes, .. }) = self.deferred.domains.remove(&key) else {
            return;
        };
        self.deferred.gathered -= changes;
        let mut completion = Completion::none();
        if let Some(domain) = self.domains.get(&key) {
            for (unit, id) in domain.memberships() {
                let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
                completion.add(unit, hardware.invalidate(platform, id, &[everything]));
            }
            self.deferred.asked(line_of(domain, key), &completion);
        }
        self.deferred.waiting.insert(batch, Some(completion));
    }

    /// Forgets the batches that all units have confirmed.
    pub(super) fn forget_batches(&mut self) {
        let Self { deferred, units, .. } = self;
        let progress = |completion: &Completion| units_progress(units, completion);
        deferred.forget(|completion| progress(completion) == Progress::Done);
        deferred.asked.retain(|(_, completion)| progress(completion) == Progress::Pending);
    }
}
