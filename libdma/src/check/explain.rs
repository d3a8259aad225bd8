//! What is behind a fault.

use dma_types::{Access, Iova};

use super::registry::{Gone, Live, Registry};
use super::report::{Life, Report, Stay};
use super::{Kind, Space, Thing};
use crate::fault::{Fault, Tried};

/// What is or was at the address of a fault.
struct At<'a> {
    fault: &'a Fault,
}

impl At<'_> {
    /// Whether a thing is there: with `by_page` in the page, where no more than that is known of the address.
    fn has(&self, thing: &Thing, by_page: bool) -> bool {
        let address: Iova = self.fault.address;
        match by_page {
            false => thing.offset_of(address).is_some(),
            true => address.page_offset() == 0 && thing.is_in_page_of(address),
        }
    }

    /// Whether a thing that is there does not allow the access.
    fn is_denied_by(&self, thing: &Thing) -> bool {
        match self.fault.tried {
            Tried::Read => thing.access.is_some_and(|access| !access.may_read()),
            Tried::Write => thing.access.is_some_and(|access| !access.may_write()),
            // Of a read or a write, or both; whoever may do both is denied none.
            _ => thing.access.is_some_and(|access| access != Access::ReadWrite),
        }
    }
}

impl Registry {
    /// What is behind a fault: what lives there and does not allow it or is out of reach, or else what was given back there
    /// last. Only what is of the same session counts: its own address space, and the domains that the device is or was in.
    pub(super) fn explain(&self, space: Space, fault: &Fault) -> Option<Report> {
        // No matter of memory: the address is none, or not the device's.
        if matches!(fault.tried, Tried::Interrupt | Tried::Internal) {
            return None;
        }
        let at = At { fault };
        let own = |of: Space| of.is_own_of(space);
        let denied = |live: &Live| at.is_denied_by(&live.thing).then_some(Life::Mapped);
        let (thing, life) = match self.stay_of(space) {
            Some((stay, within)) => {
                let away = |_: &Live| Some(Life::Away(stay.clone()));
                self.search(&at, |of| Some(of) == within, denied)
                    .or_else(|| self.search(&at, own, away))
            }
            None => {
                let left = self.stays_left(space);
                let last = left.clone().next().map(|(stay, _)| stay);
                let away = |_: &Live| last.clone().map(Life::Away);
                self.search(&at, own, denied)
                    .or_else(|| {
                        left.filter_map(|(stay, within)| {
                            let left = |_: &Live| Some(Life::Left(stay.clone()));
                            self.search(&at, |of| of == within, left)
                        })
                        .next()
                    })
                    .or_else(|| self.search(&at, own, away))
            }
        }?;
        let offset = thing.offset_of(fault.address);
        Some(Report::Fault { fault: *fault, thing, offset, life })
    }

    /// What is there in these address spaces: at the very address before in its page; what lives, for which `life` has an
    /// explanation, before what is gone.
    fn search(
        &self,
        at: &At<'_>,
        is_in: impl Fn(Space) -> bool,
        life: impl Fn(&Live) -> Option<Life>,
    ) -> Option<(Thing, Life)> {
        [false, true].into_iter().find_map(|by_page| {
            let mut lives = self.live.values().rev();
            let mut lived = self.gone.iter().rev();
            let lives = lives.find_map(|live| {
                let is_there = is_in(live.space) && at.has(&live.thing, by_page);
                Some((live.thing.clone(), is_there.then(|| life(live))??))
            });
            let was = |gone: &&Gone| is_in(gone.space) && at.has(&gone.thing, by_page);
            lives.or_else(|| lived.find(was).map(|it| (it.thing.clone(), Life::Gone(it.at))))
        })
    }

    /// The domain that the device of a session is in, and its address space, if that is known.
    fn stay_of(&self, space: Space) -> Option<(Stay, Option<Space>)> {
        let is_stay = |live: &&Live| live.thing.kind == Kind::Stay && live.space.is_own_of(space);
        let live = self.live.values().rev().find(is_stay)?;
        Some((Stay { thing: live.thing.clone(), left: None }, live.within))
    }

    /// The domains that the device of a session was in, the last first.
    fn stays_left(&self, space: Space) -> impl Iterator<Item = (Stay, Space)> + Clone {
        let of = move |gone: &Gone| {
            let within = gone.within.filter(|_| gone.space.is_own_of(space))?;
            Some((Stay { thing: gone.thing.clone(), left: Some(gone.at) }, within))
        };
        self.gone.iter().rev().filter_map(of)
    }
}
