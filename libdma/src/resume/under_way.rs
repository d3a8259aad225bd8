//! A request that is under way, and what is noted at its end.

use core::cell::Cell;

use super::link::{Link, MOST_RESTARTS, State};
use super::mappings::{At, Piece};
use super::place::Place;
use crate::protocol::Error;

/// A request that is under way.
pub(crate) struct UnderWay<'l> {
    pub(super) link: &'l Link,
    /// How often the session had been resumed when it began.
    pub(super) renewals: u64,
    /// The term in which it began.
    pub(super) term: u64,
    /// How many mappings had been noted when it began.
    pub(super) noted: u64,
    /// Whether it is not under way any more.
    pub(super) is_over: Cell<bool>,
}

impl UnderWay<'_> {
    /// How many mappings had been noted when it began: what is [known](Link::known) by a higher number was mapped since.
    pub(crate) fn noted(&self) -> u64 {
        self.noted
    }

    /// Notes what was mapped, which is the request's end.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if it is late: the session may have been resumed without it, and what it mapped been taken back
    /// as somebody else's that was lost. So it is lost, too.
    #[inline]
    pub(crate) fn learn(
        &self,
        domain: Option<u64>,
        mapped: impl IntoIterator<Item = (u64, Piece)>,
    ) -> Result<(), Error> {
        self.end_in_time(|state| {
            mapped.into_iter().for_each(|(at, piece)| state.mappings.insert((domain, at), piece));
        })
    }

    /// The same of whole buffers that streams have, known by the places of their handles; or of a request that is not kept
    /// over restarts, of which nothing is noted. Where it is late, `mapped` is asked for none.
    ///
    /// # Errors
    ///
    /// As [`learn`](Self::learn).
    #[inline]
    pub(crate) fn learn_streamed<'p>(
        under_way: Option<&Self>,
        mapped: impl Iterator<Item = (&'p Place, u64)>,
    ) -> Result<(), Error> {
        let mut state = under_way.map(|it| it.link.state.lock());
        if let (Some(under_way), Some(state)) = (under_way, &mut state) {
            if state.term != under_way.term {
                return Err(Error::DaemonGone);
            }
            under_way.end(state);
        }
        for (place, iova) in mapped {
            let number = state.as_mut().map_or(0, |state| state.mappings.next_number());
            place.set_streamed(iova, number);
        }
        Ok(())
    }

    /// The request's end, with something that is noted in it.
    #[inline]
    fn end_in_time(&self, note: impl FnOnce(&mut State)) -> Result<(), Error> {
        let state = &mut *self.link.state.lock();
        if state.term != self.term {
            return Err(Error::DaemonGone);
        }
        note(state);
        self.end(state);
        Ok(())
    }

    /// Forgets what was unmapped, which is the request's end: but for what was mapped there since so many had been noted.
    #[inline]
    pub(crate) fn forget(&self, unmapped: impl Iterator<Item = At>, noted: u64) {
        let state = &mut *self.link.state.lock();
        unmapped.for_each(|at| state.mappings.remove(at, noted));
        self.end(state);
    }

    /// The same of whole buffers that streams have: nobody else maps them.
    #[inline]
    pub(crate) fn forget_streamed<'p>(
        under_way: Option<&Self>,
        unmapped: impl Iterator<Item = &'p Place>,
    ) {
        let mut state = under_way.map(|it| it.link.state.lock());
        if let (Some(under_way), Some(state)) = (under_way, &mut state) {
            under_way.end(state);
        }
        unmapped.for_each(Place::clear_streamed);
    }

    /// Takes note that it is over.
    #[inline]
    fn end(&self, state: &mut State) {
        if !self.is_over.replace(true) && state.term == self.term {
            state.requests -= 1;
        }
    }

    /// Notes where a buffer is mapped that was made so.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if it is late: the session may have been resumed without the buffer, and what is noted at its address
    /// be another's.
    pub(crate) fn learn_made(&self, iova: u64, piece: Piece) -> Result<(), Error> {
        let state = &mut *self.link.state.lock();
        if state.term != self.term {
            return Err(Error::DaemonGone);
        }
        state.mappings.insert((None, iova), piece);
        Ok(())
    }

    /// Whether a request is to be made again that found iommud gone, when the session was resumed; `restarts` is how often
    /// that was before.
    #[cold]
    pub(super) fn outlasts_restart(self, restarts: &mut u32) -> bool {
        let (link, renewals) = (self.link, self.renewals);
        drop(self);
        *restarts += 1;
        *restarts <= MOST_RESTARTS && link.renew(renewals)
    }

    /// Whether the session cannot have been resumed without what it has made.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if it can.
    pub(super) fn in_time(&self) -> Result<(), Error> {
        let is_in_time = self.link.state.lock().term == self.term;
        if is_in_time { Ok(()) } else { Err(Error::DaemonGone) }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over.get() {
            self.end(&mut self.link.state.lock());
        }
    }
}
