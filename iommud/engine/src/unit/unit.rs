//! One IOMMU, behind the same methods whoever made it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{PhysAddr, SourceId};

use super::{Abilities, Changed, DomainId, DomainIds, Summary, Translation, UnitState, Unusable};
use crate::amdvi;
use crate::completion::Ticket;
use crate::fault::Fault;
use crate::platform::{Platform, TableFrames};
use crate::records::{UnitRecord, UnitRoot};
use crate::vtd;

/// One IOMMU.
#[derive(Debug)]
pub enum Unit {
    /// By Intel.
    Vtd(vtd::unit::Unit),
    /// By AMD.
    Amdvi(amdvi::unit::Unit),
}

/// Calls the method of the same name of whichever unit it is.
macro_rules! each {
    ($unit:expr, $inner:ident => $call:expr) => {
        match $unit {
            Unit::Vtd($inner) => $call,
            Unit::Amdvi($inner) => $call,
        }
    };
}

impl Unit {
    /// What it is: `VT-d` or `AMD-Vi`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "VT-d",
            Self::Amdvi(_) => "AMD-Vi",
        }
    }

    /// Where its registers are.
    pub fn base(&self) -> PhysAddr {
        each!(self, unit => unit.base())
    }

    /// The PCI segment that it serves.
    pub fn segment(&self) -> u16 {
        each!(self, unit => unit.segment())
    }

    /// Its root: the table in which it looks devices up.
    pub fn root(&self) -> PhysAddr {
        each!(self, unit => unit.root())
    }

    /// What is written down of it.
    pub fn record(&self) -> UnitRecord {
        let root = match self {
            Self::Vtd(unit) => UnitRoot::Table(unit.root()),
            Self::Amdvi(unit) => unit.table().record(),
        };
        UnitRecord { base: self.base(), segment: self.segment(), root }
    }

    /// Looks at the tables by which it looks devices up, which a predecessor left. `visit` is asked for each frame whether
    /// nothing else is in it. By what each device is translated that is not blocked; `None` for what cannot be our tables.
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Option<BTreeMap<SourceId, Translation>> {
        each!(self, unit => unit.examine(frames, visit))
    }

    /// Takes note of a requester that a predecessor attached under this domain id.
    pub fn goes_on(&mut self, source: SourceId) {
        match self {
            Self::Vtd(_) => {}
            Self::Amdvi(unit) => unit.name(source),
        }
    }

    /// Gives back what it has of its own, which no unit has been told of. What it looks devices up in is a predecessor's,
    /// if it is inherited.
    pub fn abandon(self, frames: &mut impl TableFrames, is_inherited: bool) {
        match (self, is_inherited) {
            (Self::Vtd(unit), true) => unit.abandon(frames),
            (Self::Vtd(unit), false) => unit.free(frames),
            (Self::Amdvi(unit), true) => unit.abandon(frames),
            (Self::Amdvi(unit), false) => unit.free(frames),
        }
    }

    /// What tables it can walk.
    pub fn abilities(&self) -> Abilities {
        each!(self, unit => unit.abilities())
    }

    /// What it says of itself, for reports.
    pub fn summary(&self) -> Summary {
        each!(self, unit => unit.summary())
    }

    /// Where it is in its life.
    pub fn state(&self) -> UnitState {
        each!(self, unit => unit.state())
    }

    /// Whether it has been given up.
    pub fn has_failed(&self) -> bool {
        each!(self, unit => unit.has_failed())
    }

    /// Whether firmware or a boot loader had left translation on.
    pub fn found_translating(&self) -> bool {
        each!(self, unit => unit.found_translating())
    }

    /// Its domain ids.
    pub fn domain_ids(&mut self) -> &mut DomainIds {
        each!(self, unit => unit.domain_ids())
    }

    /// How many domain ids are in use.
    pub fn domain_ids_in_use(&self) -> u32 {
        each!(self, unit => unit.domain_ids_in_use())
    }

    /// Every ticket up to this one is confirmed.
    pub fn confirmed(&self) -> Ticket {
        each!(self, unit => unit.confirmed())
    }

    /// How many tickets are not confirmed.
    pub fn open_tickets(&self) -> usize {
        each!(self, unit => unit.open_tickets())
    }

    /// Goes on with whatever is under way, and gives the unit up if it takes too long.
    pub fn poll(&mut self, platform: &mut impl Platform) {
        each!(self, unit => unit.poll(platform));
    }

    /// Lets a requester be translated by a domain's table, which nothing translated before. The ticket, if
    /// there is one, stands for the moment from which it holds.
    ///
    /// # Errors
    ///
    /// [`Unusable::OutOfFrames`], with nothing changed.
    pub fn attach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Result<Option<Ticket>, Unusable> {
        each!(self, unit => unit.attach(platform, source, translation))
    }

    /// Lets a requester be translated by the table that has grown out of the one that it was translated by: another
    /// root, with more levels. What is mapped in either is reached all the while; from the ticket on, what is
    /// mapped in the new one. Without a ticket, nothing translated it by that table.
    pub fn retarget(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        translation: Translation,
    ) -> Option<Ticket> {
        match self {
            // A second-stage table has the depth that it was made with, and does not grow.
            Self::Vtd(_) => None,
            Self::Amdvi(unit) => unit.retarget(platform, source, translation),
        }
    }

    /// Blocks a requester, which was translated under this domain id. After the ticket nothing of that is left
    /// in the unit.
    pub fn detach(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        domain: DomainId,
    ) -> Option<Ticket> {
        each!(self, unit => unit.detach(platform, source, domain))
    }

    /// Has the unit record nothing of what a requester is denied, or again everything; from the ticket on, if there is
    /// one. What the requester reaches stays as it is.
    pub fn silence(
        &mut self,
        platform: &mut impl Platform,
        source: SourceId,
        silent: bool,
    ) -> Option<Ticket> {
        each!(self, unit => unit.silence(platform, source, silent))
    }

    /// Has everything recorded of every requester, in the tables of a unit that has yet to forget what it holds of them.
    pub fn end_silences(&mut self, platform: &mut impl Platform) {
        each!(self, unit => unit.end_silences(platform));
    }

    /// Makes the unit forget what it holds of a range of a domain: `None` if it has by now.
    #[inline]
    pub fn forget(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Option<Ticket> {
        each!(self, unit => unit.forget(platform, domain, range))
    }

    /// Makes the unit forget what it holds of some ranges of a domain, at one go: by so many requests as it takes,
    /// and one ticket.
    pub fn invalidate(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        ranges: &[Changed],
    ) -> Ticket {
        each!(self, unit => unit.invalidate(platform, domain, ranges))
    }

    /// Whether the unit sees what is mapped where nothing was without being told. Most do.
    pub fn sees_by_itself(&self) -> bool {
        each!(self, unit => unit.sees_by_itself())
    }

    /// Makes a unit that does not [see it by itself](Self::sees_by_itself) see what was mapped where nothing was.
    pub fn mapped(
        &mut self,
        platform: &mut impl Platform,
        domain: DomainId,
        range: Changed,
    ) -> Ticket {
        each!(self, unit => unit.mapped(platform, domain, range))
    }

    /// Whether it interrupts when it records a fault.
    pub fn interrupts(&self) -> bool {
        each!(self, unit => unit.fault_source().interrupts())
    }

    /// Whether faults would go unseen if it were not polled. What a unit that has failed still says is not relied
    /// on.
    pub fn wants_polling(&self) -> bool {
        self.has_failed() || each!(self, unit => unit.fault_source().wants_polling())
    }

    /// Reads the faults that the unit recorded, and frees their records. True if more came than it could
    /// record.
    pub fn take_faults(&mut self, platform: &mut impl Platform, faults: &mut Vec<Fault>) -> bool {
        each!(self, unit => unit.take_faults(platform, faults))
    }
}
