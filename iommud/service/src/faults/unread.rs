//! Who is told of what happened to a device, and when.
//!
//! A fault is told to the session of the device that made the request, as far as its source-id says which that is.
//! Devices behind one bridge may all sign with the bridge's id: then the sessions of all whose requests come
//! so are told. So are the sessions of a whole group where the request comes from a member that nobody
//! holds. Nobody else is (rule R3): what other devices were denied is for the `faults` node.
//!
//! A session's events are read once, on whichever of its handles that are to the whole device. They name buffers and addresses
//! of all of it, and who reads them takes them: so one that was derived within bounds, or below such a one, neither reads
//! them nor is told of them. Each handle that is watched has its transport
//! told once when there is something unread, and again only after the handle was used to read: so a holder who
//! never reads costs nothing.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};
use iommu_engine::completion::UnitId;
use iommu_engine::fault::Fault;
use iommu_engine::platform::{Instant, Platform};
use libdma::Error;
use libdma::protocol::event::{EventRecord, EventsHeader};
use libdma::protocol::{MAX_BATCH, Rights};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::calls::Answered;
use crate::faults::events::{Entry, What};
use crate::handles::handle::{HandleId, Object, Watch};
use crate::service::Service;
use crate::sessions::session::SessionId;

impl<P: Platform> Service<P> {
    /// Whether a device handle's session has events to be read. If it is `wanted`, [`take_readable`] names the
    /// handle when it has some that it was not told of; else no more.
    ///
    /// [`take_readable`]: Self::take_readable
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] if it is no device's handle, [`Error::NotPermitted`] if it may not inspect, or not all of the
    /// device.
    pub fn watch(&mut self, handle: HandleId, wanted: bool) -> Result<bool, Error> {
        self.log_faults();
        let handle = self.handles.get_mut(handle)?;
        let Object::Device(session) = handle.object else { return Err(Error::WrongHandleKind) };
        if !handle.rights.contains(Rights::INSPECT) {
            return Err(Error::NotPermitted);
        }
        handle.require_whole()?;
        let session = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let readable = !session.unread.is_empty();
        handle.watch = match (wanted, readable) {
            (false, _) => Watch::Off,
            (true, false) => Watch::Armed,
            (true, true) => Watch::Told,
        };
        Ok(readable)
    }

    /// The handles whose transport is to be told that there are events to be read.
    pub fn take_readable(&mut self) -> Vec<HandleId> {
        let mut readable = Vec::new();
        if !core::mem::take(&mut self.untold) {
            return readable;
        }
        for (id, handle) in self.handles.iter_mut() {
            let (Watch::Armed, Object::Device(session)) = (handle.watch, &handle.object) else {
                continue;
            };
            let session = self.sessions.sessions.get(session);
            if session.is_some_and(|session| !session.unread.is_empty()) {
                handle.watch = Watch::Told;
                readable.push(id);
            }
        }
        readable
    }

    /// Notes a fault for the sessions that it concerns.
    pub(crate) fn note_unread(&mut self, at: Instant, unit: UnitId, segment: u16, fault: Fault) {
        let Some(source) = fault.device else { return };
        for id in self.concerned(segment, Some(source)) {
            let Some(session) = self.sessions.sessions.get(&id) else { continue };
            let domain = self.engine.group(session.device).and_then(|group| group.attached);
            let behind = self.behind(id, domain, &fault, at);
            let what = What::Fault { unit, fault, times: 1, domain, behind };
            self.tell(id, Entry { at, what });
        }
    }

    /// Has a session's handles told that something happened.
    pub(crate) fn tell(&mut self, session: SessionId, entry: Entry) {
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.unread.add(entry);
            self.untold = true;
        }
    }

    /// Counts for a session an access that it is not told of.
    pub(crate) fn drop_unread(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.unread.drop_one();
            self.untold = true;
        }
    }

    /// The sessions that a request with this source-id may be of.
    pub(crate) fn concerned(&self, segment: u16, source: Option<SourceId>) -> Vec<SessionId> {
        let Some(source) = source else { return Vec::new() };
        let signs = |device: PciAddress| {
            let known = self.engine.device(device);
            known.is_some_and(|known| known.requesters.contains(&source))
        };
        let in_group = |device: PciAddress| {
            let group = self.engine.group(device);
            group.is_some_and(|group| group.spec.requesters.contains(&source))
        };
        let here = self.sessions.sessions.iter();
        let here = here.filter(|(_, session)| session.device.segment() == segment);
        let (own, others): (Vec<_>, Vec<_>) = here
            .filter(|(_, session)| in_group(session.device))
            .partition(|(_, session)| signs(session.device));
        let concerned = if own.is_empty() { others } else { own };
        concerned.into_iter().map(|(id, _)| *id).collect()
    }

    /// Answers with the events that the session has not read, as many as there is room for.
    pub(crate) fn read_events(
        &mut self,
        id: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let session = self.device_of(id, Rights::INSPECT)?;
        self.handles.get(id)?.require_whole()?;
        let (header, rest) =
            EventsHeader::mut_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let room = header.count.get() as usize;
        if room == 0 {
            return Err(Error::EmptyBatch);
        }
        if room > MAX_BATCH {
            return Err(Error::BatchTooLarge);
        }
        if (header.left.get(), header.dropped.get()) != (0, 0) {
            return Err(Error::BadValue);
        }
        let (records, _) = <[EventRecord]>::mut_from_prefix_with_elems(rest, room)
            .map_err(|_| Error::ShortPayload)?;
        self.log_faults();
        let session = self.sessions.sessions.get_mut(&session).ok_or(Error::SessionEnded)?;
        let mut count = 0;
        for (record, entry) in records.iter_mut().zip(session.unread.take(room)) {
            *record = entry.record();
            count += 1;
        }
        let left = session.unread.len();
        header.count = U32::new(count);
        header.left = U32::new(left as u32);
        header.dropped = U64::new(session.unread.take_dropped());
        let handle = self.handles.get_mut(id)?;
        if handle.watch == Watch::Told {
            handle.watch = Watch::Armed;
            self.untold |= left > 0;
        }
        let bytes = header.as_bytes().len() + count as usize * size_of::<EventRecord>();
        Ok(Answered::now(bytes))
    }
}
