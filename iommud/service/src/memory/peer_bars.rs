//! A part of one device's BAR in the address space of another: peer to peer.
//!
//! Who holds a device offers a part of its registers by a ticket, and who holds another attaches it: then the second
//! device's DMA reaches them. It is of two sessions, and ends with the first of them to end, or with its handle.

use dma_types::{Access, CacheType, Iova, PciAddress};
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::PeerBarSpec;
use iommu_engine::ledger::Slot;
use iommu_engine::platform::{Platform, Segment};
use iommu_engine::policy::Resource;
use libdma::Error;
use libdma::protocol::call::{BufferInfo, access_code, cache_code};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, derive};

use zerocopy::little_endian::{U32, U64};

use crate::account::{AccountId, Usage};
use crate::error::to_client;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::memory::attach::wanted;
use crate::memory::label::Label;
use crate::pending::Outcome;
use crate::records::PeerBarRecord;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::SessionId;

/// Names a part of a peer's BAR. It is of the numbers that buffers have, and no buffer has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerBarId(pub u64);

/// A part of a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The device.
    pub device: PciAddress,
    /// Its session.
    pub session: SessionId,
    /// Which of its BARs.
    pub bar: u8,
    /// Where in that it starts.
    pub offset: u64,
    /// Where it is in the machine's address space.
    pub place: Segment,
}

/// A part of a peer's BAR, from its attachment until its handles are gone, or one of its two sessions.
#[derive(Debug)]
pub struct PeerBar {
    /// The registers.
    pub registers: Registers,
    /// The session whose device reaches them.
    pub session: SessionId,
    /// The domain in which they are mapped.
    pub domain: DomainKey,
    /// Where.
    pub iova: Iova,
    /// What the device may do.
    pub access: Access,
    /// On which account it is.
    pub account: AccountId,
    /// What reports call it.
    pub label: Label,
    /// How many handles there are to it.
    pub handles: u32,
    /// Its record in the ledger.
    pub slot: Slot,
}

impl PeerBar {
    /// What a handle of these rights to it is told.
    pub(crate) fn info(&self, id: PeerBarId, rights: Rights) -> BufferInfo {
        BufferInfo {
            buffer: U64::new(id.0),
            bytes: U64::new(self.registers.place.bytes),
            iova: U64::new(self.iova.get()),
            access: U32::new(access_code(self.access)),
            rights: U32::new(rights.bits()),
            cache: U32::new(cache_code(CacheType::Uncached)),
            reserved: U32::ZERO,
        }
    }
}

/// What one of this length holds, but for tables: a buffer without memory.
pub(crate) const fn peer_bar_usage(bytes: u64) -> Usage {
    Usage::mappings(1, bytes).with(Resource::Buffers, 1)
}

impl<P: Platform> Service<P> {
    /// The part of a session's device that is to be offered.
    pub(crate) fn registers_of(
        &mut self,
        session: SessionId,
        offer: &Offer,
    ) -> Result<Registers, Error> {
        let device = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?.device;
        let bar = u8::try_from(offer.bar.get()).map_err(|_| Error::NotRegisters)?;
        let (offset, bytes) = (offer.offset.get(), offer.bytes.get());
        crate::memory::buffers::check_size(bytes)?;
        if !offset.is_multiple_of(dma_types::PAGE_SIZE) {
            return Err(Error::BadAlignment);
        }
        let Self { engine, platform, .. } = self;
        let place = engine.registers(platform, device, bar, offset, bytes).map_err(to_client)?;
        Ok(Registers { device, session, bar, offset, place })
    }

    /// Maps registers that were offered for a session's device.
    pub(crate) fn attach_registers(
        &mut self,
        (session, parents): (SessionId, [HandleId; 2]),
        request: &derive::Attach,
        rights: Rights,
        (registers, allowed): (Registers, Option<Access>),
    ) -> Result<Outcome<HandleId>, Error> {
        let [by, _] = parents;
        let spec = wanted(request, registers.place.bytes, allowed)?.within(&self.bounds_of(by))?;
        // Registers that nothing reaches are of no use to anybody.
        let access = spec.access.ok_or(Error::BadValue)?;
        self.check_released(session)?;
        let account = self.account_by(session, by)?;
        let usage = peer_bar_usage(registers.place.bytes);
        self.claim(account, &usage.with_addresses().and(&ONE_REQUEST))?;
        self.set_numbers_aside()?;
        let domain = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?.domain;
        let Self { engine, platform, sessions, .. } = self;
        // Its driver may have moved them since.
        let Registers { device, bar, offset, place, .. } = registers;
        let now =
            engine.registers(platform, device, bar, offset, place.bytes).map_err(to_client)?;
        if now != place {
            return Err(Error::NotRegisters);
        }
        let number = sessions.next_buffer().0;
        let (align, first, limit) = (spec.align, spec.first, spec.limit);
        let peer_bar = PeerBarSpec { registers: place, access, align, first, limit, owner: number };
        let mapped = self.on_account(account, |engine, platform| {
            Ok(engine.map_registers(platform, domain, &peer_bar)?)
        });
        let (iova, completion) = mapped.map_err(|refused| to_client(refused.error))?;
        let Self { engine, platform, .. } = self;
        let id = PeerBarId(number);
        let record = PeerBarRecord {
            peer_bar: id,
            session,
            of_session: registers.session,
            place,
            iova,
            access,
            bar,
            offset,
            label: spec.label.bytes(),
        };
        let slot = match engine.write_record(platform, &record) {
            Ok(slot) => slot,
            Err(error) => {
                // It was just made, and nobody was told of it.
                let _ = engine.unmap(platform, domain, iova, place.bytes);
                return Err(to_client(error));
            }
        };
        let label = spec.label;
        let peer_bar =
            PeerBar { registers, session, domain, iova, access, account, label, handles: 1, slot };
        self.peer_bars.insert(id, peer_bar);
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.peer_bars.insert(id);
        }
        self.accounts.add(account, &usage);
        let handle = self.handles.insert_below(Handle::new(Object::PeerBar(id), rights), &parents);
        Ok(self.answer_handle(handle, completion))
    }

    /// Counts a handle to a peer's BAR no more.
    pub(crate) fn close_peer_bar(&mut self, id: PeerBarId) -> Completion {
        let Some(peer_bar) = self.peer_bars.get_mut(&id) else { return Completion::none() };
        peer_bar.handles -= 1;
        if peer_bar.handles == 0 { self.end_peer_bar(id) } else { Completion::none() }
    }

    /// Ends what a session has of others' BARs, and what others have of its device's.
    pub(crate) fn end_peer_bars_of(&mut self, session: SessionId) {
        let concerns = |peer_bar: &PeerBar| {
            peer_bar.session == session || peer_bar.registers.session == session
        };
        let ended = self.peer_bars.iter().filter(|(_, peer_bar)| concerns(peer_bar));
        for id in ended.map(|(id, _)| *id).collect::<alloc::vec::Vec<_>>() {
            let _ = self.end_peer_bar(id);
        }
    }

    /// Ends one: from the completion on nothing reaches the registers by it.
    fn end_peer_bar(&mut self, id: PeerBarId) -> Completion {
        let Some(peer_bar) = self.peer_bars.remove(&id) else { return Completion::none() };
        let Self { engine, platform, sessions, accounts, .. } = self;
        let bytes = peer_bar.registers.place.bytes;
        if let Some(session) = sessions.sessions.get_mut(&peer_bar.session) {
            session.peer_bars.remove(&id);
            let (now, named) = (platform.now(), (id.0, peer_bar.label));
            session.history.add_mapping(engine, now, named, (peer_bar.domain, peer_bar.iova));
        }
        accounts.release(peer_bar.account, &peer_bar_usage(bytes));
        engine.strike_record(platform, peer_bar.slot);
        // What cannot be unmapped may be reached for good.
        let gone = engine.unmap(platform, peer_bar.domain, peer_bar.iova, bytes);
        let gone = gone.unwrap_or_else(|_| Completion::never());
        let reached = self.reached.entry(peer_bar.registers.device).or_default();
        engine.forget_confirmed(reached);
        reached.join(&gone);
        gone
    }

    /// What units have yet to confirm before nothing reaches a device's registers by what has ended. Its next
    /// session begins no sooner (rule R2).
    pub(crate) fn still_reached(&mut self, device: PciAddress) -> Completion {
        let Some(completion) = self.reached.remove(&device) else { return Completion::none() };
        if self.is_done(&completion) {
            return Completion::none();
        }
        self.reached.insert(device, completion.clone());
        completion
    }
}
