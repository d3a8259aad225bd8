//! What requests are charged, before they are done; and what hardware's confirmations give back.

use dma_types::PAGE_SIZE;
use iommu_engine::domain::{DomainKey, Mapping};
use iommu_engine::engine::Engine;
use iommu_engine::engine::chain::NotMapped;
use iommu_engine::error::EngineError;
use iommu_engine::payer::{Payer, Purse, Turnover};
use iommu_engine::platform::Platform;
use iommu_engine::policy::Resource;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::limit::Limit;
use zerocopy::FromZeros;

use crate::account::{AccountId, Accounts, Allowance, Turned, Usage};
use crate::calls::{Answered, answer};
use crate::handles::bounds::Bounds;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::memory::mapped::BufferMappings;
use crate::memory::mappings::mapping_at;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::SessionId;

impl From<AccountId> for Payer {
    fn from(AccountId(number): AccountId) -> Self {
        Self(number)
    }
}

impl From<Payer> for AccountId {
    fn from(Payer(number): Payer) -> Self {
        Self(number)
    }
}

impl Usage {
    /// A buffer of this much memory of its own.
    pub(crate) const fn buffer(bytes: u64) -> Self {
        Self::NONE.with(Resource::Buffers, 1).with(Resource::BufferBytes, bytes)
    }

    /// So many mappings, of so many bytes together. Their addresses are the engine's to count.
    pub(crate) const fn mappings(mappings: u64, bytes: u64) -> Self {
        Self::NONE.with(Resource::Mappings, mappings).with(Resource::MappedBytes, bytes)
    }

    /// The same with the addresses, for a look at whether there is room for them.
    pub(crate) const fn with_addresses(self) -> Self {
        self.with(Resource::IovaBytes, self.of(Resource::MappedBytes))
    }
}

impl Accounts {
    /// Counts what the engine tells of an account.
    fn turn_over(&mut self, id: AccountId, turnover: Turnover) {
        let Turnover { frames, iova_bytes, operations, runs, run_bytes } = turnover;
        if frames | operations | runs | run_bytes == 0 {
            // That is all there is of most requests.
            let addresses = Turned::addresses(iova_bytes.unsigned_abs());
            return match iova_bytes {
                0.. => self.take(id, &addresses),
                _ => self.give_back(id, &addresses),
            };
        }
        let changes = [
            (Resource::IovaBytes, iova_bytes),
            (Resource::PageTableBytes, frames.saturating_mul(PAGE_SIZE as i64)),
            (Resource::Operations, operations),
            (Resource::Buffers, runs),
            (Resource::BufferBytes, run_bytes),
        ];
        self.turn(id, &changes);
    }

    /// Takes mappings of a buffer that are about to be no more from who mapped them: those in one domain, or all.
    pub(crate) fn unmapping(
        &mut self,
        engine: &Engine,
        mappings: &BufferMappings,
        only: Option<DomainKey>,
    ) {
        for at in mappings.keys().filter(|it| only.is_none_or(|only| only == it.0)) {
            if let Some(Mapping { payer, bytes, .. }) = mapping_at(engine, *at) {
                self.give_back(payer.into(), &Turned::mappings(1, bytes));
            }
        }
    }
}

impl<P: Platform> Service<P> {
    /// The account of a session.
    pub(crate) fn session_account(&self, session: SessionId) -> Result<AccountId, Error> {
        let session = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        Ok(session.account)
    }

    /// The account on which it is what is done by a handle, if it is of a session.
    pub(crate) fn account_of(&self, handle: HandleId) -> Result<Option<AccountId>, Error> {
        let Handle { object, bounds, .. } = self.handles.get(handle)?;
        let session = match *object {
            Object::Device(session) | Object::Registration(session, _) => Some(session),
            Object::Domain(key) => self.domains.get(&key).map(|domain| domain.session),
            Object::Buffer(id) => self.sessions.buffers.get(&id).and_then(|buffer| buffer.session),
            Object::PeerBar(id) => self.peer_bars.get(&id).map(|peer_bar| peer_bar.session),
            Object::Root | Object::Text(_) | Object::Resume(_) | Object::Quarantine(_) => None,
        };
        let of_session = session.and_then(|session| self.session_account(session).ok());
        Ok(of_session.map(|account| bounds.account.unwrap_or(account)))
    }

    /// The account on which it is what is done for a session by one of its handles.
    pub(crate) fn account_by(&self, session: SessionId, by: HandleId) -> Result<AccountId, Error> {
        let of_session = self.session_account(session)?;
        Ok(self.bounds_of(by).account.unwrap_or(of_session))
    }

    /// Answers which limit something was last refused by that was to be on a handle's account.
    pub(crate) fn last_limit(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let known = self.handles.get(handle)?;
        let (Object::Device(_) | Object::Domain(_)) = known.object else {
            return Err(Error::WrongHandleKind);
        };
        known.require(Rights::INSPECT)?;
        let account = self.account_of(handle)?.ok_or(Error::SessionEnded)?;
        if payload.len() < size_of::<Limit>() {
            return Err(Error::ShortPayload);
        }
        let last = self.accounts.take_last(account);
        answer(payload, &last.map_or_else(Limit::new_zeroed, |last| last.told()))
    }

    /// What a handle's mappings are within.
    pub(crate) fn bounds_of(&self, handle: HandleId) -> Bounds {
        self.handles.known(handle).map_or(Bounds::NONE, |entry| entry.handle.bounds)
    }

    /// Brings the accounts up to date with what the engine has done.
    #[inline(never)]
    pub(crate) fn settle(&mut self) {
        while let Some((Payer(number), turnover)) = self.engine.take_turnover() {
            self.accounts.turn_over(AccountId(number), turnover);
        }
    }

    /// The same for who looks at them: nothing is kept any more.
    pub(crate) fn balance(&mut self) {
        self.settle();
        self.accounts.call_in();
    }

    /// Nothing more will be charged to an account. What is held on it already counts until it is given back, what has only just
    /// been taken included.
    pub(crate) fn close_account(&mut self, account: AccountId) {
        let Self { engine, platform, .. } = self;
        engine.give_up_empty_tables(platform, |payer| payer == account.into());
        self.settle();
        self.accounts.close(account);
    }

    /// Charges an account with such mappings, but for their addresses, if there is room for them and for a request that waits as
    /// things stand: what the engine may take to make them.
    #[inline]
    pub(crate) fn charge_mappings(
        &mut self,
        account: AccountId,
        mappings: &Turned,
    ) -> Option<Purse> {
        self.charge_kept(account, mappings).or_else(|| self.charge_anew(account, mappings))
    }

    /// The same of what the account keeps.
    #[inline]
    pub(crate) fn charge_kept(&mut self, account: AccountId, mappings: &Turned) -> Option<Purse> {
        let owes = self.engine.owes(account.into())?;
        let allowance = self.accounts.take_kept(account, mappings, owes)?;
        Some(purse(account, allowance))
    }

    /// The same of what the account does not keep yet.
    #[inline(never)]
    fn charge_anew(&mut self, account: AccountId, mappings: &Turned) -> Option<Purse> {
        self.settle();
        let all = mappings.with_addresses();
        self.accounts.fits(account, &all.usage().and(&ONE_REQUEST)).ok()?;
        self.accounts.put_aside(account, &all);
        self.accounts.take(account, mappings);
        Some(self.purse_of(account))
    }

    /// Whether a request for so many unmaps may be made on an account: as [`claim`](Self::claim).
    #[inline]
    pub(crate) fn claim_unmaps(&mut self, account: AccountId, unmaps: u64) -> Result<(), Error> {
        match self.may_unmap(account, unmaps) {
            true => Ok(()),
            false => self.claim(account, &ONE_REQUEST.with(Resource::Operations, unmaps)),
        }
    }

    /// The same as things stand, as far as the accounts are up to date.
    #[inline]
    pub(crate) fn may_unmap(&mut self, account: AccountId, unmaps: u64) -> bool {
        self.engine.owes(account.into()).is_some() && self.accounts.may_wait(account, unmaps)
    }

    /// Whether so much more may be held on an account. What was given up counts until no hardware knows of it any more, and
    /// may be free by now, so hardware is told what it was not told yet and asked once before anything is refused.
    pub(crate) fn claim(&mut self, account: AccountId, more: &Usage) -> Result<(), Error> {
        self.settle();
        let mut hastened = None;
        while let Err((limit, exceeded)) = self.accounts.fits(account, more) {
            if hastened == Some(limit) {
                self.accounts.note(account, limit, exceeded);
                return Err(exceeded.into());
            }
            self.hasten_for(limit);
            hastened = Some(limit);
        }
        Ok(())
    }

    /// Has units told of what was given up on an account and was gathered, and of nobody else's, so that what they confirm at
    /// once is back.
    fn hasten_for(&mut self, account: AccountId) {
        let Self { engine, platform, accounts, .. } = self;
        let is_its = |Payer(payer)| accounts.is_within(AccountId(payer), account);
        let owed = engine.owed_to(is_its);
        engine.hasten(platform, &owed);
        self.settle();
    }

    /// What the engine may take on an account, as things stand.
    #[inline(never)]
    pub(crate) fn purse_of(&mut self, account: AccountId) -> Purse {
        self.settle();
        purse(account, self.accounts.allowance(account))
    }

    /// Has the engine do something on an account, of which the frames of tables are that it takes.
    pub(crate) fn on_account<T>(
        &mut self,
        account: AccountId,
        act: impl FnMut(&mut Engine, &mut P) -> Result<T, NotMapped>,
    ) -> Result<T, NotMapped> {
        let purse = self.purse_of(account);
        self.on_account_from(account, purse, act)
    }

    /// The same, for who has looked what the engine may take.
    pub(crate) fn on_account_from<T>(
        &mut self,
        account: AccountId,
        purse: Purse,
        mut act: impl FnMut(&mut Engine, &mut P) -> Result<T, NotMapped>,
    ) -> Result<T, NotMapped> {
        let mut once = |service: &mut Self, purse| {
            let Self { engine, platform, .. } = service;
            engine.on_account(purse, |engine| act(engine, platform))
        };
        let done = once(self, purse);
        let is_unpaid = |failed: &NotMapped| {
            failed.error == EngineError::TablesNotPaid && failed.lasting.is_none()
        };
        if !done.as_ref().is_err_and(is_unpaid) {
            return done;
        }
        self.make_room_for_tables(account);
        let purse = self.purse_of(account);
        let done = once(self, purse);
        if done.as_ref().is_err_and(|failed| failed.error == EngineError::TablesNotPaid) {
            self.note_unpaid(account);
        }
        done
    }

    /// Has units confirm that they do not walk tables any more that count on an account.
    #[inline(never)]
    fn make_room_for_tables(&mut self, account: AccountId) {
        let Some(limit) = self.accounts.tightest(account, Resource::PageTableBytes) else { return };
        let Self { engine, platform, accounts, .. } = self;
        let is_its = |Payer(payer)| accounts.is_within(AccountId(payer), limit);
        engine.give_up_empty_tables(platform, is_its);
        self.hasten_for(limit);
    }

    /// Notes that an account has no room for a table.
    #[inline(never)]
    fn note_unpaid(&mut self, account: AccountId) {
        let room = self.accounts.room(account, Resource::PageTableBytes);
        let wanted = (room / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE);
        self.accounts.refused(account, Resource::PageTableBytes, wanted);
    }
}

/// What the engine may take on an account.
#[inline]
fn purse(account: AccountId, allowance: Allowance) -> Purse {
    let Allowance { table_bytes, session } = allowance;
    Purse { payer: account.into(), client: session.into(), frames: table_bytes / PAGE_SIZE }
}
