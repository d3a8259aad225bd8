//! The blocked accesses that each session has not read, and who is told of them.
//!
//! A fault is told to the session of the device that made the request, as far as its source-id says which that is.
//! Devices behind one bridge may all sign with the bridge's id: then the sessions of all whose requests come
//! so are told. So are the sessions of a whole group where the request comes from a member that nobody
//! holds. Nobody else is (rule R3): what other devices were denied is for the `faults` node.
//!
//! A session's faults are read once, on whichever of its handles. Each handle that is watched has its transport
//! told once when there is something unread, and again only after the handle was used to read: so a holder who
//! never reads costs nothing.

use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};
use iommu_engine::completion::UnitId;
use iommu_engine::fault::{Fault, FaultReason, Tried};
use iommu_engine::platform::{Instant, Platform};
use libdma::Error;
use libdma::protocol::fault::{self, FaultRecord, FaultsHeader};
use libdma::protocol::{MAX_BATCH, Rights};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::calls::Answered;
use crate::faults::Entry;
use crate::handle::{HandleId, Object, Watch};
use crate::service::Service;
use crate::session::SessionId;

impl<P: Platform> Service<P> {
    /// Whether a device handle's session has faults to be read. If it is `wanted`, [`take_readable`] names the
    /// handle when it has some that it was not told of; else no more.
    ///
    /// [`take_readable`]: Self::take_readable
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] if it is no device's handle, [`Error::NotPermitted`] if it may not inspect.
    pub fn watch(&mut self, handle: HandleId, wanted: bool) -> Result<bool, Error> {
        self.log_faults();
        let handle = self.handles.get_mut(handle)?;
        let Object::Device(session) = handle.object else { return Err(Error::WrongHandleKind) };
        if !handle.rights.contains(Rights::INSPECT) {
            return Err(Error::NotPermitted);
        }
        let session = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let readable = session.unread.entries().next().is_some();
        handle.watch = match (wanted, readable) {
            (false, _) => Watch::Off,
            (true, false) => Watch::Armed,
            (true, true) => Watch::Told,
        };
        Ok(readable)
    }

    /// The handles whose transport is to be told that there are faults to be read.
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
            if session.is_some_and(|session| session.unread.entries().next().is_some()) {
                handle.watch = Watch::Told;
                readable.push(id);
            }
        }
        readable
    }

    /// Notes a fault for the sessions that it concerns.
    pub(crate) fn note_unread(&mut self, at: Instant, unit: UnitId, segment: u16, fault: Fault) {
        let Some(source) = fault.device else { return };
        for session in self.concerned(segment, source) {
            if let Some(session) = self.sessions.sessions.get_mut(&session) {
                session.unread.add(at, unit, segment, fault);
                self.untold = true;
            }
        }
    }

    /// The sessions that a request with this source-id may be of.
    fn concerned(&self, segment: u16, source: SourceId) -> Vec<SessionId> {
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

    /// Answers with the faults that the session has not read, as many as there is room for.
    pub(crate) fn read_faults(
        &mut self,
        id: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let session = self.device_of(id, Rights::INSPECT)?;
        let (header, rest) =
            FaultsHeader::mut_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
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
        let (records, _) = <[FaultRecord]>::mut_from_prefix_with_elems(rest, room)
            .map_err(|_| Error::ShortPayload)?;
        self.log_faults();
        let session = self.sessions.sessions.get_mut(&session).ok_or(Error::SessionEnded)?;
        let mut count = 0;
        for (record, entry) in records.iter_mut().zip(session.unread.take(room)) {
            *record = record_of(&entry);
            count += 1;
        }
        let left = session.unread.entries().count();
        header.count = U32::new(count);
        header.left = U32::new(left as u32);
        header.dropped = U64::new(session.unread.take_dropped());
        let handle = self.handles.get_mut(id)?;
        if handle.watch == Watch::Told {
            handle.watch = Watch::Armed;
            self.untold |= left > 0;
        }
        let bytes = header.as_bytes().len() + count as usize * size_of::<FaultRecord>();
        Ok(Answered::now(bytes))
    }
}

/// An entry as it lies on the wire.
fn record_of(entry: &Entry) -> FaultRecord {
    let Entry { at, fault, times, .. } = entry;
    FaultRecord {
        address: U64::new(fault.address.get()),
        nanoseconds: U64::new(at.as_nanos()),
        times: U64::new(*times),
        source: U16::new(fault.device.map_or(0, SourceId::get)),
        tried: U16::new(tried(fault.tried) as u16),
        reason: U32::new(reason(fault.reason) as u32),
    }
}

const fn tried(tried: Tried) -> fault::Tried {
    match tried {
        Tried::Read => fault::Tried::Read,
        Tried::Write => fault::Tried::Write,
        Tried::Access => fault::Tried::Access,
        Tried::Atomic => fault::Tried::Atomic,
        Tried::Page => fault::Tried::Page,
        Tried::Interrupt => fault::Tried::Interrupt,
        Tried::Translation => fault::Tried::Translation,
        Tried::Internal => fault::Tried::Internal,
    }
}

const fn reason(reason: FaultReason) -> fault::Reason {
    match reason {
        FaultReason::NoDomain => fault::Reason::NoDomain,
        FaultReason::NotReadable => fault::Reason::NotReadable,
        FaultReason::NotWritable => fault::Reason::NotWritable,
        FaultReason::BeyondWidth => fault::Reason::BeyondWidth,
        FaultReason::Translated => fault::Reason::Translated,
        FaultReason::InterruptRange => fault::Reason::InterruptRange,
        FaultReason::Interrupt => fault::Reason::Interrupt,
        FaultReason::Mode => fault::Reason::Mode,
        FaultReason::DeviceTable => fault::Reason::DeviceTable,
        FaultReason::PageTable => fault::Reason::PageTable,
        FaultReason::Command => fault::Reason::Command,
        FaultReason::Unknown => fault::Reason::Unknown,
    }
}
