//! One session's way to iommud, over restarts.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use core::{fmt, mem};

use dma_types::PciAddress;
use spin::{Mutex, MutexGuard};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::mappings::{At, Mappings, Piece};
use super::place::Place;
use super::under_way::UnderWay;
use crate::handle::Handle;
use crate::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, DeviceInfo, Hello, Opcode, UnmapEntry, Welcome,
};
use crate::protocol::derive::Kind;
use crate::protocol::domain::Found;
use crate::protocol::resume::{Next, Reclaim, Resume, Resumed, Thing};
use crate::protocol::{Error, Rights, Secret, path};
use crate::transport::Transport;

/// How many restarts one request outlasts.
pub(super) const MOST_RESTARTS: u32 = 64;

/// How often it is looked whether those that are under way when iommud dies have come back: for about two seconds, which is
/// several times what a transport takes to notice, and a small part of the time for which iommud waits for the session.
const LOOKS: u32 = 25;

/// How many mappings of one buffer are looked at for those that were lost: as many as a device may have if the policy does
/// not say more. An iommud that lies could tell of others for good (rule R5).
const MOST_FOUND: u32 = 1 << 20;

/// One session's way to iommud. Handles to what the session has are kept here as long as they live, so that there are new ones
/// after a restart.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    device: PciAddress,
    secret: Secret,
    /// The session's generation, which is another after each restart.
    generation: AtomicU64,
    /// Never held over a request.
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// How many requests of this term are under way.
    pub(super) requests: u32,
    /// How often those that were under way were no longer waited for. Who began in a term before is late.
    pub(super) term: u64,
    /// Whether somebody is at work to resume the session. No requests begin then.
    is_renewing: bool,
    /// How often it was resumed.
    renewals: u64,
    /// Whether iommud was waited for in vain: who asks next does not wait.
    is_away: bool,
    /// The device's own handle.
    device: Weak<Place>,
    /// The handles that this process has.
    things: BTreeMap<(Thing, u64), (Rights, Weak<Place>)>,
    /// But for those of whole buffers that streams have, of which the places know.
    pub(super) mappings: Mappings,
    /// What was to be mapped and not answered, however often.
    lost: BTreeSet<Lost>,
}

/// A piece that was to be mapped in a domain, and nobody knows whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lost {
    pub(crate) domain: Option<u64>,
    pub(crate) piece: Piece,
}

/// A request that has failed, and why.
pub(crate) type Failed<'l> = (Option<UnderWay<'l>>, Error);

/// What keeps a handle over restarts, as long as it lives.
pub(crate) struct Kept {
    pub(crate) link: Arc<Link>,
    /// Which it is, if it is not the device's own.
    thing: Option<(Thing, u64)>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some((thing, number)) = self.thing else { return };
        let state = &mut *self.link.state.lock();
        state.things.remove(&(thing, number));
        match thing {
            Thing::Buffer => state.mappings.remove_buffer(number),
            Thing::Domain => state.mappings.remove_domain(number),
        }
    }
}

impl fmt::Debug for Link {
    /// Without the secret, which is an authority.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation();
        f.debug_struct("Link").field("generation", &generation).finish_non_exhaustive()
    }
}

impl Link {
    /// The way of a session of this device that has this secret.
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        device: PciAddress,
        secret: Secret,
        generation: u64,
    ) -> Arc<Self> {
        let generation = AtomicU64::new(generation);
        Arc::new(Self { transport, device, secret, generation, state: Mutex::default() })
    }

    /// Keeps the device's own handle, and has it looked after.
    pub(crate) fn keep_device(self: &Arc<Self>, place: &Arc<Place>) -> Kept {
        self.state.lock().device = Arc::downgrade(place);
        let link = Arc::downgrade(self);
        self.transport.watch(Box::new(move || match link.upgrade() {
            Some(link) => {
                // Whatever comes of it shows in the driver's next request.
                let _ = link.look();
                true
            }
            None => false,
        }));
        Kept { link: self.clone(), thing: None }
    }

    /// Keeps a handle to something that the session has.
    pub(crate) fn keep(
        self: &Arc<Self>,
        thing: (Thing, u64),
        rights: Rights,
        place: &Arc<Place>,
    ) -> Kept {
        self.state.lock().things.insert(thing, (rights, Arc::downgrade(place)));
        Kept { link: self.clone(), thing: Some(thing) }
    }

    /// Looks whether iommud was restarted, and resumes the session then.
    pub(crate) fn look(self: &Arc<Self>) -> Result<(), Error> {
        let Some(place) = self.state.lock().device.upgrade() else { return Ok(()) };
        Self::request(Some(self), |_| {
            let open = place.open();
            let mut info = DeviceInfo::new_zeroed();
            // SAFETY: the handle is open as long as that is, and of this transport.
            unsafe { self.transport.call(open.raw(), Opcode::DeviceInfo, info.as_mut_bytes()) }
        })
        .map(drop)
    }

    /// The session's generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How often the session was resumed.
    pub(crate) fn renewals(&self) -> u64 {
        self.state.lock().renewals
    }

    /// Does something of several requests, of which one takes what another was answered by the same iommud: all of it anew
    /// if that was restarted in between. `others` are the links of what else it is done with.
    pub(crate) fn together<R>(
        links: [Option<&Arc<Self>>; 2],
        mut act: impl FnMut(bool) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let links = || links.into_iter().flatten();
        let mut before: Vec<u64> = links().map(|link| link.renewals()).collect();
        let mut is_again = false;
        for _ in 0..MOST_RESTARTS {
            let result = act(is_again);
            let is_gone = matches!(result, Err(Error::DaemonGone));
            if !is_gone && !matches!(result, Err(Error::BadTicket)) {
                return result;
            }
            let mut was_restarted = false;
            for (link, before) in links().zip(&mut before) {
                if link.renewals() != *before || is_gone && link.renew(*before) {
                    (*before, was_restarted) = (link.renewals(), true);
                }
            }
            if !was_restarted {
                return result;
            }
            is_again = true;
        }
        act(is_again)
    }

    /// Makes a request of a session that has such a way, or none; all of it anew after a restart of iommud: `make` asks what it
    /// asks of handles as they are.
    #[inline]
    pub(crate) fn request<R>(
        link: Option<&Arc<Self>>,
        make: impl FnMut(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        Self::request_after(link, None, make)
    }

    /// The same, for who has begun it and made it once, by a way of their own, and it failed so.
    #[inline]
    pub(crate) fn request_after<'l, R>(
        link: Option<&'l Arc<Self>>,
        mut failed: Option<Failed<'l>>,
        mut make: impl FnMut(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // One place where it is made, so that it is no function of its own.
        let mut restarts = 0;
        loop {
            let (under_way, result) = match failed.take() {
                Some((under_way, error)) => (under_way, Err(error)),
                None => {
                    let under_way = Self::begun(link);
                    let result = make(under_way.as_ref());
                    (under_way, result)
                }
            };
            if let (Err(Error::DaemonGone), Some(under_way)) = (&result, under_way)
                && under_way.outlasts_restart(&mut restarts)
            {
                continue;
            }
            return result;
        }
    }

    /// A request that is to be made, if there is such a way.
    #[inline]
    pub(crate) fn begun(link: Option<&Arc<Self>>) -> Option<UnderWay<'_>> {
        link.map(|link| link.begin())
    }

    /// The same of what makes something that is to be kept. Who is late makes it anew: nobody may have had another handle to it.
    pub(crate) fn request_new<R>(
        link: Option<&Arc<Self>>,
        mut make: impl FnMut(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        Self::request(link, |under_way| {
            let made = make(under_way)?;
            under_way.map_or(Ok(()), UnderWay::in_time)?;
            Ok(made)
        })
    }

    /// The same of what is done once: who is late is told so.
    pub(crate) fn once<R>(
        &self,
        make: impl FnOnce(&UnderWay<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let under_way = self.begin();
        let made = make(&under_way)?;
        under_way.in_time()?;
        Ok(made)
    }

    /// Begins a request, when nobody is at work to resume the session.
    #[inline]
    fn begin(&self) -> UnderWay<'_> {
        let mut state = self.state.lock();
        if state.is_renewing {
            drop(state);
            state = self.resumed();
        }
        state.requests += 1;
        let State { renewals, term, .. } = *state;
        let (noted, is_over) = (state.mappings.noted(), Cell::new(false));
        UnderWay { link: self, renewals, term, noted, is_over }
    }

    /// The state when nobody is at work to resume the session any more.
    #[cold]
    fn resumed(&self) -> MutexGuard<'_, State> {
        loop {
            self.transport.pause(0);
            let state = self.state.lock();
            if !state.is_renewing {
                return state;
            }
        }
    }

    /// The how manieth noted mapping it is that begins there, if one was told: of several the last.
    #[cold]
    pub(crate) fn known(&self, at: At) -> Option<u64> {
        let state = self.state.lock();
        let places = state.things.values().filter_map(|(_, place)| place.upgrade());
        let streamed = places.filter_map(|place| place.streamed());
        let there = streamed.filter(|(iova, _)| at == (None, *iova)).map(|(_, number)| number);
        there.chain(state.mappings.number(at)).max()
    }

    /// Whether just this piece is mapped there, as was told.
    fn is_known(&self, at: At, piece: Piece) -> bool {
        let state = self.state.lock();
        let streamed = || {
            let (_, place) = state.things.get(&(Thing::Buffer, piece.buffer))?;
            let (iova, _) = place.upgrade()?.streamed()?;
            Some(at == (None, iova) && piece.offset == 0)
        };
        state.mappings.is(at, piece) || streamed() == Some(true)
    }

    /// Notes that these were to be mapped, and nobody knows whether they were. To be called in the request that was not
    /// answered.
    #[cold]
    pub(crate) fn lose(&self, pieces: impl IntoIterator<Item = Lost>) {
        self.state.lock().lost.extend(pieces);
    }

    /// Resumes the session, unless somebody has done so since it had been `renewals` times. Whether it was.
    #[cold]
    pub(crate) fn renew(&self, renewals: u64) -> bool {
        let is_resumed = loop {
            let mut state = self.state.lock();
            let is_resumed = state.renewals != renewals;
            if is_resumed && state.lost.is_empty() {
                return true;
            }
            if !state.is_renewing {
                state.is_renewing = true;
                break is_resumed;
            }
            drop(state);
            self.transport.pause(0);
        };
        self.end_term();
        if is_resumed {
            // Who was late has lost something. If iommud is gone again, the request that comes next finds out.
            let _ = self.take_back(|domain| self.space(domain));
            self.state.lock().is_renewing = false;
            return true;
        }
        let resumed = self.resume_patiently();
        let state = &mut *self.state.lock();
        state.is_renewing = false;
        state.is_away = resumed == Err(Error::DaemonGone);
        if resumed.is_ok() {
            state.renewals += 1;
        }
        resumed.is_ok()
    }

    /// Waits for those that are under way, but not for good: on Redox the kernel never tells some of them that iommud is
    /// gone. Nothing that they use ends, for they hold their handles open. If they come back all the same they are late, and
    /// what they bring counts for nothing where the session was resumed without it.
    fn end_term(&self) {
        for look in 0..LOOKS {
            if self.state.lock().requests == 0 {
                break;
            }
            self.transport.pause(look);
        }
        let state = &mut *self.state.lock();
        state.requests = 0;
        state.term += 1;
    }

    /// Resumes the session when there is somebody who knows of it.
    fn resume_patiently(&self) -> Result<(), Error> {
        let was_away = self.state.lock().is_away;
        let mut tries = 0;
        loop {
            match self.resume() {
                // Of many handles to resume one session by, iommud closes the oldest, and somebody else may have opened as many.
                Err(Error::DaemonGone | Error::NotReady | Error::BadHandle)
                    if !was_away && self.transport.pause(tries) =>
                {
                    tries += 1;
                }
                resumed => return resumed,
            }
        }
    }

    /// Resumes the session, and has a new handle to everything that this process holds.
    fn resume(&self) -> Result<(), Error> {
        let device = Handle::open(self.transport.clone(), &path::resume(self.device))?;
        let _: Welcome = device.call(Opcode::Hello, &Hello::new())?;
        let resumed: Resumed = device.call(Opcode::Resume, &Resume { secret: self.secret })?;
        let (own, things) = {
            let state = self.state.lock();
            let things = state
                .things
                .iter()
                .filter_map(|(thing, (rights, place))| Some((*thing, *rights, place.upgrade()?)));
            (state.device.upgrade(), things.collect::<Vec<_>>())
        };
        let mut reclaimed = Vec::with_capacity(things.len());
        for ((thing, number), rights, place) in things {
            let request = Reclaim {
                kind: U32::new(Kind::Reclaim as u32),
                rights: U32::new(rights.bits()),
                thing: U32::new(thing as u32),
                reserved: U32::ZERO,
                number: U64::new(number),
            };
            match device.derive(&request) {
                Ok(handle) => reclaimed.push(((thing, number), handle, place)),
                Err(Error::DaemonGone) => return Err(Error::DaemonGone),
                // What cannot be had again has a dead handle: that is told to who uses it.
                Err(_) => {}
            }
        }
        self.take_back(|domain| {
            let Some(number) = domain else { return Some(device.place().clone()) };
            let domain = (Thing::Domain, number);
            let found = reclaimed.iter().find(|(thing, ..)| *thing == domain);
            found.map(|(_, handle, _)| handle.place().clone())
        })?;
        device.call_bytes(Opcode::EndResume, &mut [])?;
        for (_, handle, place) in &reclaimed {
            handle.swap(place);
        }
        if let Some(own) = own {
            device.swap(&own);
        }
        self.generation.store(resumed.generation.get(), Ordering::Relaxed);
        Ok(())
    }

    /// Unmaps what was mapped and not answered, in these spaces, while nobody else's request of this term is under way. What
    /// cannot be is kept for the next time.
    fn take_back(&self, space: impl Fn(Option<u64>) -> Option<Arc<Place>>) -> Result<(), Error> {
        let mut lost: BTreeMap<_, BTreeSet<Piece>> = BTreeMap::new();
        for Lost { domain, piece } in mem::take(&mut self.state.lock().lost) {
            lost.entry((domain, piece.buffer)).or_default().insert(piece);
        }
        let mut is_gone = false;
        for ((domain, buffer), pieces) in lost {
            // A domain that is gone has taken with it what was mapped there.
            let Some(space) = space(domain) else { continue };
            let taken = match is_gone {
                true => Err(Error::DaemonGone),
                false => self.take_back_pieces(&Handle::of_place(space), (domain, buffer), &pieces),
            };
            match taken {
                // So has a buffer, or the session.
                Ok(()) | Err(Error::WrongOwner | Error::SessionEnded) => {}
                Err(error) => {
                    is_gone |= error == Error::DaemonGone;
                    self.lose(pieces.into_iter().map(|piece| Lost { domain, piece }));
                }
            }
        }
        if is_gone { Err(Error::DaemonGone) } else { Ok(()) }
    }

    /// The handle to an explicit domain, or to the device if it is in none.
    fn space(&self, domain: Option<u64>) -> Option<Arc<Place>> {
        let state = self.state.lock();
        match domain {
            None => state.device.upgrade(),
            Some(number) => state.things.get(&(Thing::Domain, number))?.1.upgrade(),
        }
    }

    /// Unmaps these pieces of a buffer at every address that nobody was told.
    fn take_back_pieces(
        &self,
        space: &Handle,
        (domain, buffer): (Option<u64>, u64),
        pieces: &BTreeSet<Piece>,
    ) -> Result<(), Error> {
        let mut from = 0;
        for _ in 0..MOST_FOUND {
            let request = Next { iova: U64::new(from), buffer: U64::new(buffer) };
            let found: Found = space.call(Opcode::Next, &request)?;
            let (start, bytes) = (found.start.get(), found.bytes.get());
            // What is said to lie before has been seen.
            if found.access.get() == 0 || start < from {
                return Ok(());
            }
            let there = Piece { buffer, offset: found.offset.get(), bytes };
            if pieces.contains(&there) && !self.is_known((domain, start), there) {
                unmap(space, start, bytes)?;
            }
            let Some(next) = start.checked_add(bytes.max(1)) else { return Ok(()) };
            from = next;
        }
        Err(Error::QuotaExceeded)
    }
}

/// Unmaps what is mapped there, and waits for it.
fn unmap(space: &Handle, start: u64, bytes: u64) -> Result<(), Error> {
    let header = BatchHeader {
        count: U32::new(1),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(BATCH_FLAG_STRICT),
    };
    let entry = UnmapEntry { iova: U64::new(start), bytes: U64::new(bytes) };
    let mut payload = [0; size_of::<BatchHeader>() + size_of::<UnmapEntry>()];
    let (first, second) = payload.split_at_mut(size_of::<BatchHeader>());
    first.copy_from_slice(header.as_bytes());
    second.copy_from_slice(entry.as_bytes());
    space.call_bytes(Opcode::Unmap, &mut payload).map(drop)
}
