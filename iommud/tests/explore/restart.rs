//! iommud dies, and its clients go on.

use iommu_service::{HandleId, Outcome, Service, Settings};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::Kind;
use libdma::protocol::domain::Found;
use libdma::protocol::resume::{Next, Reclaim, Resume, Thing};
use simulated::ROOT;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::clients::{Client, Held, Inside, Mapped, Place, Stage};
use crate::world::{World, devices};

impl World {
    /// iommud dies, and its successor adopts what it had. Handles are dead, and whoever waited for an answer gets none.
    pub(crate) fn restart(&mut self) {
        self.deaths += 1;
        self.restarts += 1;
        let spare = self.spare.take().expect("one that is nobody's");
        let policy = self.service.engine().policy().clone();
        let dead = std::mem::replace(&mut self.service, spare);
        let mut platform = dead.into_platform();
        platform.fate.set(None);
        platform.sim.inherit();
        let next = match Service::adopt(platform, Settings { policy, lines: Vec::new() }) {
            Ok(next) => next,
            Err((error, _)) => panic!("not adopted: {error}"),
        };
        self.spare = Some(std::mem::replace(&mut self.service, next));
        self.orphans = [0; 2];
        self.revoking.clear();
        for (number, client) in self.clients.iter_mut().enumerate() {
            if matches!(client.device, Place::Asked(_)) {
                client.device = Place::None;
                self.unclaimed[number] = true;
            }
            if matches!(client.device, Place::Had(_)) {
                client.device = Place::Lost;
            }
            if !matches!(client.inside, Inside::Own | Inside::Explicit) {
                client.inside = Inside::Unsure;
            }
            for place in &mut client.buffers {
                // It was never told of what it waits for.
                place.take_if(|held| matches!(held.handle, Place::Asked(_)));
            }
            for held in client.held() {
                (held.handle, held.part) = (Place::Lost, None);
                held.mapped.iter_mut().for_each(lose);
            }
        }
        if let Some(explicit) = &mut self.explicit {
            explicit.handle = Place::Lost;
            explicit.mapped.iter_mut().for_each(|(_, mapped)| lose(mapped));
        }
        // A client that died before has nobody to resume what it had.
        for client in [0, 1] {
            let has_none = matches!(self.clients[client].device, Place::None);
            self.unclaimed[client] |= has_none && self.is_held(client);
            let has_session = self.service.sessions().of_device(devices()[client]).is_some();
            if matches!(self.clients[client].device, Place::Lost) && has_session {
                let (handle, early) = self.ask_to_resume(client);
                assert_eq!(early, Err(Error::NotReady), "units know yet what they knew");
                self.service.close(handle);
            }
        }
    }

    /// A client asks to resume its session.
    fn ask_to_resume(&mut self, client: usize) -> (HandleId, Result<Outcome<usize>, Error>) {
        let root = self.service.root();
        let path = format!("resume/{}", devices()[client].to_string().replace(':', "--"));
        let opened = self.service.open(root, &path, ROOT);
        self.service.close(root);
        let Ok(Outcome::Done(handle)) = opened else { panic!("{opened:?}") };
        self.greet(handle);
        let mut payload = Resume { secret: self.clients[client].secret };
        (handle, self.service.call(handle, Opcode::Resume as u64, payload.as_mut_bytes()))
    }

    /// A client resumes its session, and has all again that it had.
    pub(crate) fn resume(&mut self, client: usize) {
        let (handle, resumed) = self.ask_to_resume(client);
        assert_eq!(resumed, Ok(Outcome::Done(16)), "a session is lost");
        // As soon as it has that, it has its device, whether iommud dies again or not.
        self.clients[client].device = Place::Had(handle);
        for index in 0..self.clients[client].buffers.len() {
            self.reclaim_buffer(client, index, handle);
        }
        if client == 0 {
            self.reclaim_domain(handle);
        }
        self.find_inside(client);
        let ended = self.service.call(handle, Opcode::EndResume as u64, &mut []);
        assert_eq!(ended, Ok(Outcome::Done(0)));
        if client == 0 && self.explicit.is_none() {
            // One of before that it did not want.
            self.move_out();
        }
    }

    fn reclaim_buffer(&mut self, client: usize, index: usize, device: HandleId) {
        let Some(Held { number, is_revoked, rights, .. }) = self.clients[client].buffers[index]
        else {
            return;
        };
        match self.reclaim(device, Thing::Buffer, number, rights) {
            Ok(handle) => {
                assert!(!is_revoked, "a handle that was revoked is there again");
                self.greet(handle);
                let there = self.next(device, number);
                let Some(held) = &mut self.clients[client].buffers[index] else { return };
                held.handle = Place::Had(handle);
                held.mapped = match (held.mapped, there) {
                    (Some(Mapped { stage: Stage::Mapped, iova, .. }), there) => {
                        assert_eq!(there, Some(iova), "a mapping is lost");
                        held.mapped
                    }
                    (_, Some(iova)) => Some(Mapped { iova, strict: false, stage: Stage::Mapped }),
                    (_, None) => None,
                };
            }
            Err(error) => {
                let may_be = is_revoked || self.died_revoking;
                assert!(may_be, "a buffer is not to be had again: {error}");
                self.clients[client].buffers[index] = None;
            }
        }
    }

    fn reclaim_domain(&mut self, device: HandleId) {
        let Some(explicit) = &self.explicit else { return };
        let key = explicit.key;
        let handle = match self.reclaim(device, Thing::Domain, key.0, Rights::DOMAIN) {
            Ok(handle) => handle,
            Err(error) => {
                assert!(self.died_revoking, "a domain is not to be had again: {error}");
                self.explicit = None;
                return;
            }
        };
        self.greet(handle);
        let first = self.clients[0].buffers[0].as_ref().filter(|it| it.handle.had().is_some());
        let first = first.map(|it| it.number);
        let number = self.explicit.as_ref().and_then(|it| it.mapped).map(|it| it.0).or(first);
        let there = number.and_then(|number| Some((number, self.next(handle, number)?)));
        let Some(explicit) = &mut self.explicit else { return };
        explicit.handle = Place::Had(handle);
        let was = explicit.mapped;
        if let Some((number, Mapped { stage: Stage::Mapped, iova, .. })) = was {
            assert_eq!(there, Some((number, iova)), "a mapping in a domain is lost");
        }
        explicit.mapped = there
            .map(|(number, iova)| (number, Mapped { iova, strict: false, stage: Stage::Mapped }));
    }

    /// Which domain a client's device is in, of which it is unsure.
    fn find_inside(&mut self, client: usize) {
        let now = self.service.sessions().of_device(devices()[client]);
        let now = now.and_then(|(_, session)| session.entered);
        let now = if now.is_some() { Inside::Explicit } else { Inside::Own };
        let inside = &mut self.clients[client].inside;
        match *inside {
            Inside::Unsure => *inside = now,
            sure => assert_eq!(sure, now, "a device was moved"),
        }
    }

    fn reclaim(
        &mut self,
        device: HandleId,
        thing: Thing,
        number: u64,
        rights: Rights,
    ) -> Result<HandleId, Error> {
        let request = Reclaim {
            kind: U32::new(Kind::Reclaim as u32),
            rights: U32::new(rights.bits()),
            thing: U32::new(thing as u32),
            reserved: U32::ZERO,
            number: U64::new(number),
        };
        match self.service.derive(device, request.as_bytes())? {
            Outcome::Done(handle) => Ok(handle),
            Outcome::Pending(_) => panic!("no hardware is needed"),
        }
    }

    /// Where a buffer is mapped in the space of this handle.
    fn next(&mut self, handle: HandleId, number: u64) -> Option<u64> {
        let mut payload = [0; size_of::<Found>()];
        let next = Next { iova: U64::ZERO, buffer: U64::new(number) };
        payload[..size_of::<Next>()].copy_from_slice(next.as_bytes());
        let asked = self.service.call(handle, Opcode::Next as u64, &mut payload);
        assert!(asked.is_ok(), "{asked:?}");
        let mut found = Found::new_zeroed();
        found.as_mut_bytes().copy_from_slice(&payload);
        (found.access.get() != 0).then(|| found.start.get())
    }

    /// iommud is about to die over something that may change every mapping.
    pub(crate) fn doubt_all(&mut self) {
        let there = self.explicit.iter_mut().flat_map(|it| &mut it.mapped).map(|(_, it)| it);
        let held = self.clients.iter_mut().flat_map(Client::held);
        let all = held.flat_map(|it| &mut it.mapped).chain(there);
        all.for_each(|mapped| mapped.stage = Stage::Unsure);
    }

    /// Sees which sessions have ended because nobody resumed them in time.
    pub(crate) fn lose_sessions(&mut self) {
        for client in [0, 1] {
            let is_there = self.service.sessions().of_device(devices()[client]).is_some();
            if matches!(self.clients[client].device, Place::Lost) && !is_there {
                self.clients[client] = self.clients[client].next();
                if client == 0 {
                    self.explicit = None;
                    self.move_out();
                }
            }
            self.unclaimed[client] &= self.is_held(client);
        }
    }

    /// Whoever is in a domain that has ended is on the way back.
    pub(crate) fn move_out(&mut self) {
        for client in &mut self.clients {
            if client.inside != Inside::Own {
                client.inside = Inside::Unsure;
            }
        }
    }

    /// Nothing is under way: who was on the way is there.
    pub(crate) fn arrive(&mut self) {
        if self.is_busy() {
            return;
        }
        for client in [0, 1] {
            if self.clients[client].inside == Inside::Unsure
                && self.clients[client].device.had().is_some()
            {
                self.find_inside(client);
            }
        }
    }
}

/// Who was not answered does not know what was done.
fn lose(mapped: &mut Mapped) {
    if mapped.stage != Stage::Mapped {
        mapped.stage = Stage::Unsure;
    }
}
