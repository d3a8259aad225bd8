//! Promises that hardware will confirm.
//!
//! Nothing here waits. An operation that a unit must confirm, because it could still hold a translation,
//! returns a [`Completion`], and [`Engine::progress`](crate::engine::Engine::progress) says how it stands.
//! What the operation took out of use stays out of use until then (rule R2).

use alloc::vec::Vec;

/// Names a unit: its place in the list of all units that the firmware's table describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u16);

impl UnitId {
    /// Stands for no unit, but for the unmaps that are gathered before units are told of them. No table
    /// names so many units.
    pub(crate) const GATHERED: Self = Self(u16::MAX - 1);
}

/// One unit's promise. Tickets of a unit are confirmed in the order in which they were given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// What a unit that has failed promises: it will never be confirmed.
    pub const NEVER: Self = Self(u64::MAX);

    /// The first of each unit: that it has forgotten everything of before, when it starts.
    pub const FIRST: Self = Self(1);
}

/// What all units that an operation concerns have yet to confirm.
///
/// Most concern one unit, so that is kept without an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    first: Option<(UnitId, Ticket)>,
    more: Vec<(UnitId, Ticket)>,
}

impl Completion {
    /// Nothing to confirm.
    pub const fn none() -> Self {
        Self { first: None, more: Vec::new() }
    }

    /// One unit's ticket to confirm.
    pub const fn one(unit: UnitId, ticket: Ticket) -> Self {
        Self { first: Some((unit, ticket)), more: Vec::new() }
    }

    /// Nothing will confirm it: what waits for this is never used again.
    pub const fn never() -> Self {
        Self { first: Some((UnitId(u16::MAX), Ticket::NEVER)), more: Vec::new() }
    }

    /// A batch of unmaps of one domain, to be told to the units and confirmed by them. With batches of other domains
    /// it must not be joined: each domain's are confirmed in an order of their own.
    pub const fn gathered(batch: Ticket) -> Self {
        Self { first: Some((UnitId::GATHERED, batch)), more: Vec::new() }
    }

    /// What of this a client has to wait for: all but batches of unmaps, by which it was to be answered sooner.
    pub fn for_client(&self) -> Self {
        let mut waited = Self::none();
        for (unit, ticket) in self.tickets().filter(|(unit, _)| *unit != UnitId::GATHERED) {
            waited.add(unit, ticket);
        }
        waited
    }

    /// Waits for this too.
    pub fn add(&mut self, unit: UnitId, ticket: Ticket) {
        for (other, latest) in self.first.iter_mut().chain(&mut self.more) {
            if *other == unit {
                *latest = ticket.max(*latest);
                return;
            }
        }
        if self.first.is_none() {
            self.first = Some((unit, ticket));
        } else {
            self.more.push((unit, ticket));
        }
    }

    /// Waits for all of `other` too.
    pub fn join(&mut self, other: &Self) {
        for (unit, ticket) in other.tickets() {
            self.add(unit, ticket);
        }
    }

    /// The tickets, at most one for each unit.
    pub fn tickets(&self) -> impl Iterator<Item = (UnitId, Ticket)> {
        self.first.iter().chain(&self.more).copied()
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
}
