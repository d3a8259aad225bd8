//! What requests are charged, before they are done; and what hardware's confirmations give back.

use dma_types::PAGE_SIZE;
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

use crate::account::{AccountId, Accounts, Usage};
use crate::calls::{Answered, answer};
use crate::handles::bounds::Bounds;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::memory::mappings::BufferMapping;
use crate::service::Service;
use crate::sessions::session::SessionId;

impl From<AccountId> for Payer {
    fn from(AccountId(number): AccountId) -> Self {
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
        if (frames, operations, runs, run_bytes) == (0, 0, 0, 0) {
            // That is all there is of most requests.
            return self.turn(id, &[(Resource::IovaBytes, iova_bytes)]);
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

    /// Charges mappings that there are.
    pub(crate) fn mapped(&mut self, id: AccountId, mappings: &Usage) {
        let more = [Resource::Mappings, Resource::MappedBytes]
            .map(|resource| (resource, i64::try_from(mappings[resource]).unwrap_or(i64::MAX)));
        self.turn(id, &more);
    }

    /// Takes mappings that are no more from who mapped them.
    pub(crate) fn unmapped<'a>(&mut self, mappings: impl IntoIterator<Item = &'a BufferMapping>) {
        let (mut of, mut count, mut sum) = (AccountId::NOBODY, 0i64, 0i64);
        let mut give_back = |of, count: i64, sum: i64| {
            self.turn(of, &[(Resource::Mappings, -count), (Resource::MappedBytes, -sum)]);
        };
        for BufferMapping { account, bytes, .. } in mappings {
            // Most often it is the same account's again.
            if *account != of {
                give_back(of, count, sum);
                (of, count, sum) = (*account, 0, 0);
            }
            count += 1;
            sum = sum.saturating_add_unsigned(*bytes);
        }
        give_back(of, count, sum);
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
            Object::Window(id) => self.windows.get(&id).map(|window| window.session),
            Object::Root | Object::Text(_) | Object::Claim(_) | Object::Quarantine(_) => None,
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
    pub(crate) fn settle(&mut self) {
        while let Some((Payer(number), turnover)) = self.engine.take_turnover() {
            self.accounts.turn_over(AccountId(number), turnover);
        }
    }

    /// Nothing more will be charged to an account. What is held on it already counts until it is given back, what has only just
    /// been taken included.
    pub(crate) fn close_account(&mut self, account: AccountId) {
        self.settle();
        self.accounts.close(account);
    }

    /// Whether there is room for so much more on an account as things stand.
    pub(crate) fn has_room(&mut self, account: AccountId, more: &Usage) -> bool {
        self.settle();
        self.accounts.fits(account, more).is_ok()
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

    /// Has the engine do something on an account, of which the frames of tables are that it takes.
    pub(crate) fn on_account<T>(
        &mut self,
        account: AccountId,
        mut act: impl FnMut(&mut Engine, &mut P) -> Result<T, NotMapped>,
    ) -> Result<T, NotMapped> {
        let mut once = |service: &mut Self| {
            service.settle();
            let frames = service.accounts.room(account, Resource::PageTableBytes) / PAGE_SIZE;
            let client = service.accounts.session_of(account).into();
            let purse = Purse { payer: account.into(), client, frames };
            let Self { engine, platform, .. } = service;
            engine.on_account(purse, |engine| act(engine, platform))
        };
        let done = once(self);
        let is_unpaid = |failed: &NotMapped| {
            failed.error == EngineError::TablesNotPaid && failed.lasting.is_none()
        };
        if !done.as_ref().is_err_and(is_unpaid) {
            return done;
        }
        // There may be tables that nobody walks any more.
        let limit = self.accounts.tightest(account, Resource::PageTableBytes);
        limit.into_iter().for_each(|limit| self.hasten_for(limit));
        let done = once(self);
        if done.as_ref().is_err_and(|failed| failed.error == EngineError::TablesNotPaid) {
            let room = self.accounts.room(account, Resource::PageTableBytes);
            let wanted = (room / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE);
            self.accounts.refused(account, Resource::PageTableBytes, wanted);
        }
        done
    }
}
