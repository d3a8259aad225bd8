//! Promises that hardware will confirm.
//!
//! Nothing here waits. An operation that a unit must confirm, because it could still hold a translation,
//! returns a [`Completion`], and [`Engine::progress`](crate::engine::Engine::progress) says how it stands.
//! What the operation took out of use stays out of use until then (rule R2).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::domain::DomainKey;

/// Names a unit: its place in the list of all units that the firmware's table describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u16);

/// One unit's promise. Tickets of a unit are confirmed in the order in which they were given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// What a unit that has failed promises: it will never be confirmed.
    pub const NEVER: Self = Self(u64::MAX);

    /// The first of each unit: that it has forgotten everything of before, when it starts.
    pub const FIRST: Self = Self(1);
}

/// Who promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promiser {
    /// A unit.
    Unit(UnitId),
    /// Whoever is to be told of a domain's changes, which are gathered. The batches of one domain are confirmed in
    /// the order of their numbers.
    Batches(DomainKey),
}

/// What all units that an operation concerns have yet to confirm.
///
/// Most concern one unit, so that is kept without an allocation. What concerns more is a list elsewhere, so that nearly all
/// completions are a few words and dropped by one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    first: Option<Promise>,
    #[expect(clippy::box_collection, reason = "a word instead of three")]
    more: Option<Box<Vec<Promise>>>,
}

/// What one of them has yet to confirm.
pub(crate) type Promise = (Promiser, Ticket);

impl Completion {
    /// Nothing to confirm.
    pub const fn none() -> Self {
        Self { first: None, more: None }
    }

    /// Whether there is nothing to confirm.
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.first.is_none()
    }

    /// One unit's ticket to confirm.
    pub const fn one(unit: UnitId, ticket: Ticket) -> Self {
        Self { first: Some((Promiser::Unit(unit), ticket)), more: None }
    }

    /// Nothing will confirm it: what waits for this is never used again.
    pub const fn never() -> Self {
        Self::one(UnitId(u16::MAX), Ticket::NEVER)
    }

    /// A batch of changes of one domain, to be told to the units and confirmed by them.
    pub const fn gathered(domain: DomainKey, batch: Ticket) -> Self {
        Self { first: Some((Promiser::Batches(domain), batch)), more: None }
    }

    /// All that it waits for, at most one promise of each: the first, and most often no others.
    #[inline]
    pub(crate) fn parts(&self) -> (Option<Promise>, &[Promise]) {
        (self.first, self.more.as_ref().map_or(&[][..], |more| more.as_slice()))
    }

    fn promises(&self) -> impl Iterator<Item = &Promise> {
        self.first.iter().chain(self.parts().1)
    }

    /// Waits for this too.
    #[inline]
    pub fn add(&mut self, unit: UnitId, ticket: Ticket) {
        self.put(Promiser::Unit(unit), ticket);
    }

    /// Waits for all of `other` too.
    #[inline]
    pub fn join(&mut self, other: &Self) {
        if self.is_none() {
            self.clone_from(other);
        } else {
            other.promises().for_each(|&(promiser, ticket)| self.put(promiser, ticket));
        }
    }

    fn put(&mut self, promiser: Promiser, ticket: Ticket) {
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        for (other, latest) in self.first.iter_mut().chain(more) {
            if *other == promiser {
                *latest = ticket.max(*latest);
                return;
            }
        }
        match &mut self.first {
            Some(_) => self.more.get_or_insert_default().push((promiser, ticket)),
            first => *first = Some((promiser, ticket)),
        }
    }

    /// Keeps just what of it stands like this: forgets what is confirmed, of a completion that is kept for long.
    pub(crate) fn retain(&mut self, stands: impl Fn(&Self) -> bool) {
        let kept = |promise: &Promise| stands(&Self { first: Some(*promise), more: None });
        let mut all: Vec<_> = self.promises().copied().filter(kept).collect();
        self.first = all.pop();
        self.more = (!all.is_empty()).then(|| all.into());
    }

    /// The units' tickets, at most one for each.
    #[inline]
    pub fn tickets(&self) -> impl Iterator<Item = (UnitId, Ticket)> {
        self.promises().filter_map(|(promiser, ticket)| match promiser {
            Promiser::Unit(unit) => Some((*unit, *ticket)),
            Promiser::Batches(_) => None,
        })
    }

    /// The batches of changes, at most one for each domain.
    #[inline]
    pub fn batches(&self) -> impl Iterator<Item = Ticket> {
        self.promises().filter_map(|(promiser, ticket)| match promiser {
            Promiser::Unit(_) => None,
            Promiser::Batches(_) => Some(*ticket),
        })
    }
}

/// How a [`Completion`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every unit has confirmed.
    Done,
    /// Some unit has not confirmed yet, and still may.
    Pending,
    /// Some unit failed before it confirmed, and never will.
    Failed,
}

impl Progress {
    /// How both stand together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Done, other) | (other, Self::Done) => other,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Pending, Self::Pending) => Self::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_ticket_of_each_unit_counts() {
        let mut completion = Completion::one(UnitId(0), Ticket(5));
        completion.add(UnitId(1), Ticket(2));
        let mut other = Completion::one(UnitId(1), Ticket(7));
        other.add(UnitId(0), Ticket(3));
        completion.join(&other);
        let tickets: Vec<_> = completion.tickets().collect();
        assert_eq!(tickets, [(UnitId(0), Ticket(5)), (UnitId(1), Ticket(7))]);
    }

    #[test]
    fn of_each_domain_the_latest_batch_counts_and_those_of_several_are_all_waited_for() {
        let mut completion = Completion::gathered(DomainKey(1), Ticket(4));
        completion.join(&Completion::gathered(DomainKey(2), Ticket(5)));
        completion.join(&Completion::gathered(DomainKey(1), Ticket(6)));
        completion.join(&Completion::gathered(DomainKey(2), Ticket(3)));
        completion.add(UnitId(0), Ticket(9));
        assert_eq!(completion.batches().collect::<Vec<_>>(), [Ticket(6), Ticket(5)]);
        assert_eq!(completion.tickets().collect::<Vec<_>>(), [(UnitId(0), Ticket(9))]);
    }

    #[test]
    fn what_is_confirmed_can_be_forgotten() {
        let mut completion = Completion::gathered(DomainKey(1), Ticket(4));
        completion.add(UnitId(0), Ticket(9));
        completion.add(UnitId(1), Ticket(2));
        let unit = |id| move |part: &Completion| part.tickets().any(|(unit, _)| unit == UnitId(id));
        completion.retain(|part| unit(0)(part) || unit(1)(part));
        assert_eq!((completion.tickets().count(), completion.batches().count()), (2, 0));
        completion.retain(unit(0));
        assert_eq!(completion, Completion::one(UnitId(0), Ticket(9)));
        completion.retain(|_| false);
        assert_eq!(completion, Completion::none());
    }
}
