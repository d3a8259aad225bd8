//! Buffers in domains: who asks, and what is where.

use alloc::collections::{BTreeMap, BTreeSet};

use dma_types::Iova;
use iommu_engine::completion::Completion;
use iommu_engine::domain::{DomainKey, Mapping};
use iommu_engine::engine::Engine;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::access_code;
use libdma::protocol::domain::{Found, Lookup};
use libdma::protocol::resume::Next;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros};

use crate::account::{AccountId, Accounts};
use crate::calls::{Answered, answer};
use crate::handles::bounds::Bounds;
use crate::handles::handle::{HandleId, Object};
use crate::handles::tree::{DoneBy, Gone};
use crate::service::Service;
use crate::sessions::session::{BufferId, SessionId};

/// An address space, and whose buffers are mapped in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// The session of the buffers.
    pub(crate) session: SessionId,
    /// Where they are mapped.
    pub(crate) domain: DomainKey,
    /// If only what is on one account is known, and on those below it.
    pub(crate) within: Option<AccountId>,
}

impl Space {
    /// Whether what is on an account is known there.
    #[inline]
    pub(super) fn knows(self, accounts: &Accounts, account: AccountId) -> bool {
        self.within.is_none_or(|within| accounts.is_within(account, within))
    }
}

/// Where a buffer is mapped.
pub type MappedAt = (DomainKey, Iova);

/// What the engine has noted of what is mapped there.
pub(crate) fn mapping_at(engine: &Engine, (domain, iova): MappedAt) -> Option<Mapping> {
    engine.domain(domain)?.mapping(iova)
}

/// How long that is.
pub(crate) fn mapped_bytes(engine: &Engine, at: MappedAt) -> u64 {
    mapping_at(engine, at).map_or(0, |mapping| mapping.bytes)
}

/// Who asks for something in an address space: it is looked up once for each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) space: Space,
    /// By which handle.
    pub(crate) by: HandleId,
    /// Whether that is the device's, and not a domain's.
    pub(super) is_device: bool,
    /// On which account it is what is done.
    pub(super) account: AccountId,
    /// What is mapped is within these.
    pub(super) bounds: Bounds,
}

impl<P: Platform> Service<P> {
    /// Who asks for a mapping by a device's handle, if nothing is to be said against it: as most do.
    #[inline(always)]
    pub(super) fn device_asker(&mut self, by: HandleId) -> Option<Asker> {
        match self.handles.mapper(by) {
            Some(asker) => Some(*asker),
            None => self.find_device_asker(by),
        }
    }

    #[inline(never)]
    fn find_device_asker(&mut self, by: HandleId) -> Option<Asker> {
        let asker = self.asker(by, Rights::MAP).ok().filter(|asker| asker.is_device)?;
        self.handles.set_mapper(asker);
        Some(asker)
    }

    /// Who asks by a handle that has these rights.
    pub(crate) fn asker(&self, by: HandleId, rights: Rights) -> Result<Asker, Error> {
        let handle = self.handles.get(by)?;
        let (session, explicit) = match handle.object {
            Object::Device(session) => (Some(session), None),
            Object::Domain(domain) => {
                (self.domains.get(&domain).map(|explicit| explicit.session), Some(domain))
            }
            _ => return Err(Error::WrongHandleKind),
        };
        handle.require(rights)?;
        let session = session.ok_or(Error::SessionEnded)?;
        let held = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let (domain, bounds) = (explicit.unwrap_or(held.domain), handle.bounds);
        let space = Space { session, domain, within: bounds.account };
        let account = bounds.account.unwrap_or(held.account);
        Ok(Asker { space, by, is_device: explicit.is_none(), account, bounds })
    }

    /// What handles have mapped of which nothing is left, and where devices are by them, is from then on of the nearest that
    /// they were derived from.
    pub(crate) fn leave_mappings_to_heirs(&mut self, gone: &[(Object, Gone)]) {
        let heirs: BTreeMap<HandleId, HandleId> =
            gone.iter().filter_map(|(_, gone)| Some((gone.handle, gone.heir?))).collect();
        if heirs.is_empty() {
            return;
        }
        let inherit = |by: &mut DoneBy| by.leave_to(heirs.get(&by.handle()).copied());
        for session in self.sessions.sessions.values_mut() {
            session.entered.iter_mut().flat_map(|it| &mut it.by).for_each(inherit);
        }
        let sessions: BTreeSet<SessionId> =
            gone.iter().filter_map(|(object, _)| self.session_of_mapper(object)).collect();
        for session in sessions {
            let Some(session) = self.sessions.sessions.get(&session) else { continue };
            for id in &session.buffers {
                let Some(buffer) = self.sessions.buffers.get_mut(id) else { continue };
                buffer.mappings.makers_mut().for_each(inherit);
            }
        }
    }

    /// A buffer by its number, if it is this session's.
    fn own_buffer(&self, space: Space, number: u64) -> Option<BufferId> {
        let id = BufferId(number);
        let buffer = self.sessions.buffers.get(&id)?;
        let is_own =
            buffer.session == Some(space.session) && space.knows(&self.accounts, buffer.account);
        is_own.then_some(id)
    }

    /// Answers what of this session's is mapped at an address: Linux's `iommu_iova_to_phys`, but with a buffer for
    /// the answer and no physical address (rule R3).
    pub(crate) fn lookup(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let space = self.asker(handle, Rights::INSPECT)?.space;
        let (request, _) = Lookup::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let iova = Iova::new(request.iova.get());
        let domain = self.engine.domain(space.domain).ok_or(Error::SessionEnded)?;
        let found = domain.lookup(iova).and_then(|(start, mapping)| {
            let buffer = self.own_buffer(space, mapping.owner.buffer()?)?;
            Some((start, mapping, buffer))
        });
        let mut told = Found::new_zeroed();
        if let Some((start, mapping, buffer)) = found {
            told = Found {
                start: U64::new(start.get()),
                bytes: U64::new(mapping.bytes),
                buffer: U64::new(buffer.0),
                offset: U64::new(mapping.offset + (iova.get() - start.get())),
                access: U32::new(access_code(mapping.access)),
                reserved: U32::ZERO,
            };
        }
        answer(payload, &told)
    }

    /// Answers what of a buffer of this session's is mapped at an address or behind it.
    pub(crate) fn next(&mut self, handle: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let space = self.asker(handle, Rights::INSPECT)?.space;
        let (request, _) = Next::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let id = self.own_buffer(space, request.buffer.get()).ok_or(Error::WrongOwner)?;
        let buffer = self.sessions.buffers.get(&id).ok_or(Error::WrongOwner)?;
        let from = (space.domain, Iova::new(request.iova.get()));
        let found = buffer.mappings.at_or_behind(from);
        let domain = self.engine.domain(space.domain).ok_or(Error::SessionEnded)?;
        let found = found.filter(|(key, _)| *key == space.domain);
        let found = found.and_then(|(_, iova)| Some((iova, domain.mapping(iova)?)));
        let mut told = Found::new_zeroed();
        if let Some((start, mapping)) = found {
            told = Found {
                start: U64::new(start.get()),
                bytes: U64::new(mapping.bytes),
                buffer: U64::new(id.0),
                offset: U64::new(mapping.offset),
                access: U32::new(access_code(mapping.access)),
                reserved: U32::ZERO,
            };
        }
        answer(payload, &told)
    }
}

/// Waits for what is to be confirmed of one of many, of most of which nothing is.
#[inline]
pub(super) fn join(all: &mut Completion, one: &Completion) {
    if !one.is_none() {
        all.join(one);
    }
}
