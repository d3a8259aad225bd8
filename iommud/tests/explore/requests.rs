//! What clients ask for, and what becomes of it.

use iommu_service::{Answer, Completed, HandleId, Outcome, RequestId};
use libdma::Error;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, DeviceInfo, Hello, MapEntry, Opcode, UnmapEntry,
};
use libdma::protocol::derive::{self, Allocate, Kind, NO_LIMITS, Restrict};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use simulated::ROOT;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::clients::{Client, Held, Inside, LENT, Mapped, Place, Stage};
use crate::event::{From, MOST, Order};
use crate::world::{World, devices};

impl World {
    pub(crate) fn open(&mut self, client: usize) {
        let root = self.service.root();
        let path = format!("device/{}", devices()[client].to_string().replace(':', "--"));
        let opened = self.service.open(root, &path, ROOT);
        self.service.close(root);
        match opened {
            Ok(Outcome::Done(handle)) => self.opened(client, handle),
            Ok(Outcome::Pending(request)) => self.clients[client].device = Place::Asked(request),
            // Somebody died while his open pended, or before he resumed his session: nobody can close that.
            Err(Error::DeviceBusy) if self.orphans[client] > 0 || self.unclaimed[client] => {}
            // Hardware has not forgotten what it knew before a restart.
            Err(Error::NotReady) if !self.service.engine().is_settled() => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn opened(&mut self, client: usize, handle: HandleId) {
        self.greet(handle);
        let mut info = DeviceInfo::new_zeroed();
        let asked = self.service.call(handle, Opcode::DeviceInfo as u64, info.as_mut_bytes());
        assert!(asked.is_ok(), "{asked:?}");
        self.clients[client].device = Place::Had(handle);
        self.clients[client].secret = info.secret;
        self.clients[client].inside = Inside::Own;
        self.known.begins(client);
    }

    pub(crate) fn greet(&mut self, handle: HandleId) {
        let mut hello = [0; 8];
        hello.copy_from_slice(Hello::new().as_bytes());
        let greeted = self.service.call(handle, Opcode::Hello as u64, &mut hello);
        assert_eq!(greeted, Ok(Outcome::Done(8)));
    }

    pub(crate) fn device(&self, client: usize) -> HandleId {
        self.clients[client].device.had().expect("an event that can happen")
    }

    /// The first place for a buffer.
    fn place(&mut self, client: usize) -> &mut Option<Held> {
        let places = &mut self.clients[client].buffers;
        places.iter_mut().find(|it| it.is_none()).expect("an event that can happen")
    }

    fn request(&self, access: u32) -> Allocate {
        Allocate {
            kind: U32::new(Kind::Allocate as u32),
            access: U32::new(access),
            bytes: U64::new(self.bound.bytes),
            align: U64::new(self.bound.bytes),
            limit: U64::new(self.limit()),
            ..Allocate::new_zeroed()
        }
    }

    pub(crate) fn allocate(&mut self, client: usize) {
        let made = self.service.derive(self.device(client), self.request(0).as_bytes()).unwrap();
        let Outcome::Done(handle) = made else { panic!("no hardware is needed") };
        let (number, _) = self.number(handle);
        let handle = Place::Had(handle);
        *self.place(client) = Some(Held::new(handle, number, false));
    }

    /// A buffer that is mapped at once, by a handle of its own to the first client's device.
    pub(crate) fn allocate_part(&mut self) {
        let restrict = Restrict {
            kind: U32::new(Kind::Restrict as u32),
            rights: U32::new((Rights::DEVICE - Rights::SHARE).bits()),
            access: U32::new(3),
            reserved: U32::ZERO,
            first: U64::ZERO,
            last: U64::new(u64::MAX),
            limits: NO_LIMITS,
            label: [0; 32],
        };
        let part = self.service.derive(self.device(0), restrict.as_bytes()).unwrap();
        let Outcome::Done(part) = part else { panic!("no hardware is needed") };
        self.greet(part);
        let handle = match self.service.derive(part, self.request(3).as_bytes()) {
            Ok(Outcome::Done(handle)) => handle,
            Ok(Outcome::Pending(_)) => panic!("no unit keeps what is not there"),
            Err(Error::NoAddressSpace) => return self.service.close(part),
            Err(Error::NotReady) if !self.service.engine().is_settled() => {
                return self.service.close(part);
            }
            Err(other) => panic!("{other}"),
        };
        let (number, iova) = self.number(handle);
        let mapped = Mapped { iova, strict: false, stage: Stage::Mapped };
        *self.place(0) = Some(Held {
            part: Some(part),
            mapped: Some(mapped),
            rights: LENT,
            ..Held::new(Place::Had(handle), number, false)
        });
    }

    /// What requests call a new buffer, and where it was mapped when it was made.
    fn number(&mut self, handle: HandleId) -> (u64, u64) {
        self.greet(handle);
        let mut info = BufferInfo::new_zeroed();
        self.service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes()).unwrap();
        assert!(info.buffer.get() > self.highest[0], "a buffer has another's number");
        self.highest[0] = info.buffer.get();
        (info.buffer.get(), info.iova.get())
    }

    pub(crate) fn map(&mut self, client: usize, index: usize, strict: bool) {
        let device = self.device(client);
        let limit = self.limit();
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        held.mapped = Some(Mapped { iova: 0, strict, stage: Stage::Unsure });
        let number = held.number;
        let mapped = self.map_by(device, number, limit, strict);
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        held.mapped = mapped;
    }

    /// Maps a buffer by a handle of a device or a domain, if there is room.
    pub(crate) fn map_by(
        &mut self,
        handle: HandleId,
        number: u64,
        limit: u64,
        strict: bool,
    ) -> Option<Mapped> {
        let mut entry = MapEntry::new_zeroed();
        entry.buffer = U64::new(number);
        entry.bytes = U64::new(self.bound.bytes);
        entry.limit = U64::new(limit);
        entry.access = U32::new(3);
        let mut payload = [header(strict).as_bytes(), entry.as_bytes()].concat();
        let stage = match self.service.call(handle, Opcode::Map as u64, &mut payload) {
            Ok(Outcome::Done(_)) => {
                if BatchHeader::read_from_prefix(&payload).unwrap().0.errno.get() != 0 {
                    return None;
                }
                Stage::Mapped
            }
            Ok(Outcome::Pending(request)) => Stage::Mapping(request),
            // The only address is taken, or the memory is mapped elsewhere.
            Err(Error::NoAddressSpace | Error::MappedElsewhere) => return None,
            Err(Error::NotReady) if !self.service.engine().is_settled() => return None,
            Err(other) => panic!("{other}"),
        };
        let (_, entry) = payload.split_at(size_of::<BatchHeader>());
        let told = MapEntry::read_from_prefix(entry).unwrap().0.iova.get();
        // Who is not answered yet guesses it.
        let iova = if stage == Stage::Mapped { told } else { self.newest_of(number)? };
        Some(Mapped { iova, strict, stage })
    }

    /// Where a buffer is mapped, in any domain.
    fn newest_of(&self, number: u64) -> Option<u64> {
        let domains = self.service.engine().domains();
        let mut all = domains.flat_map(|(_, domain)| domain.mappings());
        let found = all.find(|(_, it)| it.owner.buffer() == Some(number));
        found.map(|(iova, _)| iova.get())
    }

    pub(crate) fn unmap(&mut self, client: usize, index: usize) {
        let device = self.device(client);
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        let Some(mapped) = held.mapped else { return };
        held.mapped = Some(Mapped { stage: Stage::Unsure, ..mapped });
        match self.unmap_by(device, mapped) {
            None => self.unmapped(client, index),
            Some(request) => {
                let stage = Stage::Unmapping(request);
                let left = Some(Mapped { stage, ..mapped });
                self.clients[client].buffers[index].iter_mut().for_each(|it| it.mapped = left);
            }
        }
    }

    /// Unmaps something by a handle of a device or a domain; the request, if it pends.
    pub(crate) fn unmap_by(&mut self, handle: HandleId, mapped: Mapped) -> Option<RequestId> {
        let bytes = U64::new(self.bound.bytes);
        let entry = UnmapEntry { iova: U64::new(mapped.iova), bytes };
        let mut payload = [header(mapped.strict).as_bytes(), entry.as_bytes()].concat();
        match self.service.call(handle, Opcode::Unmap as u64, &mut payload).unwrap() {
            Outcome::Done(_) => None,
            Outcome::Pending(request) => Some(request),
        }
    }

    /// An unmap is answered.
    fn unmapped(&mut self, client: usize, index: usize) {
        let is_strict = self.invalidation == iommu_engine::policy::Invalidation::Strict;
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        if let Some(mapped) = held.mapped.take()
            && (mapped.strict || is_strict)
            && let Some((_, session)) = self.service.sessions().of_device(devices()[client])
        {
            // In the other domain it may be mapped at the same address.
            self.known.is_gone_in(client, session.domain, mapped.iova, held.number);
        }
    }

    pub(crate) fn give_up(&mut self, client: usize, index: usize) {
        let Some(held) = self.clients[client].buffers[index].take() else { return };
        if let Some(explicit) = &mut self.explicit {
            // It ends wherever it is mapped.
            explicit.mapped.take_if(|(number, _)| *number == held.number);
        }
        let handles = [held.handle.had(), held.part];
        handles.into_iter().flatten().for_each(|handle| self.service.close(handle));
    }

    /// A ticket of what a handle is of.
    pub(crate) fn offer(&mut self, handle: HandleId, rights: Rights, access: u32) -> Ticket {
        let (rights, access) = (U32::new(rights.bits()), U32::new(access));
        let mut offer = Offer { rights, access, ..Offer::default() };
        self.service.call(handle, Opcode::Offer as u64, offer.as_mut_bytes()).unwrap();
        Ticket::read_from_prefix(offer.as_bytes()).unwrap().0
    }

    pub(crate) fn lend(&mut self) {
        let Some(lent) = self.clients[0].buffers[0].as_ref().and_then(|it| it.handle.had()) else {
            return;
        };
        let ticket = self.offer(lent, LENT, 3);
        let request = derive::Attach {
            kind: U32::new(Kind::Attach as u32),
            access: U32::new(3),
            rights: U32::new(LENT.bits()),
            reserved: U32::ZERO,
            align: U64::new(self.bound.bytes),
            limit: U64::new(self.limit()),
            ticket: ticket.0,
            label: [0; 32],
        };
        let handle = match self.service.derive(self.device(1), request.as_bytes()) {
            Ok(Outcome::Done(handle)) => Place::Had(handle),
            Ok(Outcome::Pending(request)) => Place::Asked(request),
            Err(Error::NoAddressSpace | Error::MappedElsewhere) => return,
            Err(Error::NotReady) if !self.service.engine().is_settled() => return,
            Err(other) => panic!("{other}"),
        };
        *self.place(1) = Some(Held::new(handle, 0, true));
        let is_new = |it: &Option<Held>| it.as_ref().is_some_and(|it| it.is_lent && it.number == 0);
        let index = self.clients[1].buffers.iter().position(is_new);
        if let (Place::Had(handle), Some(index)) = (handle, index) {
            self.lent(index, handle);
        }
    }

    /// The second client has what it was lent.
    fn lent(&mut self, index: usize, handle: HandleId) {
        let (number, iova) = self.number(handle);
        let has = |held: &mut Held| (held.handle, held.number) = (Place::Had(handle), number);
        self.clients[1].buffers[index].iter_mut().for_each(has);
        let mapped = Mapped { iova, strict: false, stage: Stage::Mapped };
        self.clients[1].buffers[index].iter_mut().for_each(|held| held.mapped = Some(mapped));
    }

    /// Revokes what was derived from a handle of the first client.
    pub(crate) fn revoke(&mut self, from: From) {
        let mut of_first = self.clients[0].buffers.iter().flatten();
        let from = match from {
            From::Buffer => of_first.next().and_then(|it| it.handle.had()),
            From::Part => of_first.find_map(|it| it.part.filter(|_| !it.is_revoked)),
            From::Device => self.clients[0].device.had(),
        };
        let Some(from) = from else { return };
        let mut payload = [0; 16];
        let outcome = self.service.call(from, Opcode::Revoke as u64, &mut payload).unwrap();
        let mut gone = Vec::new();
        for client in [0, 1] {
            for held in self.clients[client].buffers.iter_mut().flatten() {
                let Some(handle) = held.handle.had().filter(|_| !held.is_revoked) else { continue };
                let mut info = BufferInfo::new_zeroed();
                let asked =
                    self.service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes());
                held.is_revoked = asked == Err(Error::Revoked);
                if held.is_revoked {
                    let mapped = held.mapped.take();
                    gone.extend(mapped.map(|mapped| (client, mapped.iova, held.number)));
                }
            }
        }
        self.lose_domain();
        match outcome {
            Outcome::Done(_) => self.are_gone(gone),
            Outcome::Pending(request) => self.revoking.push((request, gone)),
        }
    }

    /// Revoking is answered.
    fn are_gone(&mut self, gone: Vec<(usize, u64, u64)>) {
        for (client, iova, number) in gone {
            self.known.is_gone(client, iova, number);
        }
    }

    pub(crate) fn die(&mut self, client: usize, order: Order) {
        let next = self.clients[client].next();
        let Client { device, buffers, .. } = std::mem::replace(&mut self.clients[client], next);
        self.orphans[client] += usize::from(matches!(device, Place::Asked(_)));
        self.unclaimed[client] |= matches!(device, Place::Lost);
        let explicit = if client == 0 { self.explicit.take() } else { None };
        if explicit.is_some() {
            self.move_out();
        }
        let buffers = buffers.iter().flatten().flat_map(|it| [it.handle.had(), it.part]).flatten();
        let domain = explicit.and_then(|it| it.handle.had());
        let mut handles: Vec<_> = device.had().into_iter().chain(domain).chain(buffers).collect();
        if order == Order::DeviceLast {
            handles.reverse();
        }
        for handle in handles {
            self.service.close(handle);
        }
    }

    pub(crate) fn poll(&mut self) {
        let orphans = self.orphans;
        for Completed { request, result } in self.service.poll() {
            match result {
                Ok(answer) => self.answered(request, answer),
                Err(Error::Revoked) => self.refused(request),
                // Whose open pended before, and is dead, has it now: nobody could close that.
                Err(Error::DeviceBusy) => {
                    let is_it =
                        |place: &Place<_>| matches!(place, Place::Asked(it) if *it == request);
                    let asked = self.clients.iter().position(|client| is_it(&client.device));
                    assert!(asked.is_none_or(|client| orphans[client] > 0), "nobody has it");
                    asked.into_iter().for_each(|client| self.clients[client].device = Place::None);
                }
                Err(other) => panic!("{other}"),
            }
        }
        self.arrive();
    }

    /// The handle that this was asked on, or what was to be lent, was revoked before there was an answer.
    fn refused(&mut self, request: RequestId) {
        self.revoking.retain(|(asked, _)| *asked != request);
        for client in &mut self.clients {
            if matches!(client.inside, Inside::Entering(asked) | Inside::Leaving(asked) if asked == request)
            {
                client.inside = Inside::Unsure;
            }
            for place in &mut client.buffers {
                place.take_if(|it| matches!(it.handle, Place::Asked(asked) if asked == request));
            }
        }
    }

    /// Gives an answer to whoever asked, if that client lives.
    fn answered(&mut self, request: RequestId, answer: Answer) {
        if let Some(index) = self.revoking.iter().position(|(asked, _)| *asked == request) {
            let (_, gone) = self.revoking.remove(index);
            return self.are_gone(gone);
        }
        if self.domain_answered(request) {
            return;
        }
        for client in [0, 1] {
            if matches!(self.clients[client].device, Place::Asked(asked) if asked == request) {
                let Answer::Handle(handle) = answer else { panic!("{answer:?}") };
                return self.opened(client, handle);
            }
            for index in 0..MOST {
                let Some(held) = &mut self.clients[client].buffers[index] else { continue };
                if matches!(held.handle, Place::Asked(asked) if asked == request) {
                    let Answer::Handle(handle) = answer else { panic!("{answer:?}") };
                    return self.lent(index, handle);
                }
                match &mut held.mapped {
                    Some(mapped) if mapped.stage == Stage::Mapping(request) => {
                        mapped.stage = Stage::Mapped;
                        return;
                    }
                    Some(mapped) if mapped.stage == Stage::Unmapping(request) => {
                        return self.unmapped(client, index);
                    }
                    _ => {}
                }
            }
        }
        let Answer::Handle(handle) = answer else { return };
        // Who asked is dead.
        self.service.close(handle);
        for client in [0, 1] {
            if !self.is_held(client) {
                self.orphans[client] = 0;
            }
        }
    }

    /// Whether there is a session of a client's device, or of one who died before.
    pub(crate) fn is_held(&self, client: usize) -> bool {
        self.service.engine().group(devices()[client]).is_some_and(|group| group.is_held())
    }
}

fn header(strict: bool) -> BatchHeader {
    BatchHeader {
        count: U32::new(1),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(if strict { BATCH_FLAG_STRICT } else { 0 }),
    }
}
