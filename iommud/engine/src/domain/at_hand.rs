//! Mappings that come and go without a search: at addresses that are at hand, in one table that is there and stays.
//!
//! All is looked at first. What takes more than that is left to the general ways, with nothing changed.

use dma_types::{Access, Iova};

use super::mappings::Note;
use super::{Domain, DomainTable, Mapping};
use crate::completion::UnitId;
use crate::iova::{IovaRequest, Live};
use crate::payer::Payer;
use crate::platform::TableFrames;
use crate::unit::DomainId;

/// What was taken out of a domain's table, with its addresses still taken.
#[derive(Debug)]
pub struct Leaving<'a> {
    range: Live<'a, Note>,
    /// On whose account it was.
    pub payer: Payer,
    /// The unit that may hold it, and the domain's id there.
    pub unit: Option<(UnitId, DomainId)>,
}

impl Leaving<'_> {
    /// Frees its addresses: no unit holds it any more (rule R2).
    #[inline]
    pub fn free(self) {
        self.range.free();
    }

    /// Leaves its addresses taken, with nothing mapped there.
    pub fn keep(self) {
        self.range.forget();
    }
}

impl Domain {
    /// Maps a part of a client's buffer, which has this number, if nothing is to be searched for that, or made. `enter` enters its
    /// memory in the table, if no more than that is to be done.
    #[inline(always)]
    pub fn map_at_hand(
        &mut self,
        request: &IovaRequest,
        buffer: u64,
        mapping: &Mapping,
        enter: impl FnOnce(&mut DomainTable, Iova, Access) -> bool,
    ) -> Option<Iova> {
        let access = self.abilities.permitted(mapping.access);
        let idle = self.addresses.idle_at_hand(request)?;
        let iova = idle.iova();
        if !enter(&mut self.table, iova, access) {
            return None;
        }
        idle.take_noted(Note::of(buffer, &Mapping { access, ..*mapping }));
        Some(iova)
    }

    /// Takes a mapping of which `is_its` is true out of the table, if no table goes with it, its addresses can be freed without a
    /// search, and no more than one unit knows the domain.
    #[inline(always)]
    pub fn unmap_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        bytes: u64,
        is_its: impl FnOnce(&Mapping) -> bool,
    ) -> Option<Leaving<'_>> {
        let Self { addresses, table, memberships, .. } = self;
        let unit = match &memberships[..] {
            [] => None,
            [membership] => Some(membership.place()),
            [..] => return None,
        };
        let range = addresses.live_at_hand(iova, bytes)?;
        let mapping = range.note().mapping(bytes);
        let is_out = is_its(&mapping) && table.unmap_at_hand(frames, iova, bytes);
        is_out.then_some(Leaving { range, payer: mapping.payer, unit })
    }
}
