//! Accounts: who holds how much, and how much that may be.
//!
//! An account is a device's, a user's (a *client's*), a session's, or that of handles that were derived with a quota of
//! their own. What is held is charged to one account and counts for all that stand above it: for a handle's account that
//! is the session's, and for a session's both that of its device and that of its user, who may have other devices.
//!
//! ```text
//! handles with a quota ─► session ─┬► device
//!                                  └► client (user)
//! ```
//!
//! A session has no limits of its own: it holds what its device may. It has an account all the same, for what it held may
//! outlive it, in the hands of those who were given buffers, and until hardware has confirmed that nothing reaches it; so
//! long it counts for the device and the user, as if the session were there still.
//!
//! # What counts, and for how long
//!
//! | | from | to |
//! | --- | --- | --- |
//! | buffers, and their bytes | the answer to who made them | when the memory is free again |
//! | mapped bytes, mappings | the map | the unmap |
//! | I/O addresses | the map | when units have confirmed that they have forgotten them |
//! | tables | when they are made | when units have confirmed that they do not walk them |
//! | requests | when one must wait | its answer |
//! | operations | the unmap | when units have confirmed it |
//!
//! A buffer of memory that other buffers are of too counts as long as it is there; the last of them counts until the
//! memory is free. A table is on the account of who mapped what it was made for, as long as anybody has something
//! mapped in it.
//!
//! What a client asks for is refused where it would go beyond a limit, and has changed nothing (rule R7). What it gives up
//! is never refused by a limit: a close may bring an account above what it may hold in operations, and nothing more is
//! granted on it before it is below.

use alloc::collections::BTreeMap;
use core::fmt;

use dma_types::PciAddress;
use iommu_engine::policy::{Quotas, Resource};
use libdma::Error;

use crate::session::SessionId;

/// How much is held, or to be held: what [`Quotas`] limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Buffers, windows of registers and explicit domains.
    pub buffers: u64,
    /// Memory in buffers, in bytes.
    pub buffer_bytes: u64,
    /// Mapped bytes.
    pub mapped_bytes: u64,
    /// Bytes of I/O addresses, those included that wait for hardware to forget them.
    pub iova_bytes: u64,
    /// Mappings.
    pub mappings: u64,
    /// Memory in page tables, in bytes.
    pub page_table_bytes: u64,
    /// Requests that are not answered yet.
    pub requests: u64,
    /// Unmaps that hardware has not confirmed yet.
    pub operations: u64,
}

impl Usage {
    /// Nothing.
    pub const NONE: Self = Self {
        buffers: 0,
        buffer_bytes: 0,
        mapped_bytes: 0,
        iova_bytes: 0,
        mappings: 0,
        page_table_bytes: 0,
        requests: 0,
        operations: 0,
    };

    /// How much of a resource.
    pub const fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Buffers => self.buffers,
            Resource::BufferBytes => self.buffer_bytes,
            Resource::MappedBytes => self.mapped_bytes,
            Resource::IovaBytes => self.iova_bytes,
            Resource::Mappings => self.mappings,
            Resource::PageTableBytes => self.page_table_bytes,
            Resource::Requests => self.requests,
            Resource::Operations => self.operations,
        }
    }

    /// Both together. What no machine can have counts as the most that there can be.
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            buffers: self.buffers.saturating_add(other.buffers),
            buffer_bytes: self.buffer_bytes.saturating_add(other.buffer_bytes),
            mapped_bytes: self.mapped_bytes.saturating_add(other.mapped_bytes),
            iova_bytes: self.iova_bytes.saturating_add(other.iova_bytes),
            mappings: self.mappings.saturating_add(other.mappings),
            page_table_bytes: self.page_table_bytes.saturating_add(other.page_table_bytes),
            requests: self.requests.saturating_add(other.requests),
            operations: self.operations.saturating_add(other.operations),
        }
    }

    /// This without the other, which is a part of it.
    const fn without(&self, other: &Self) -> Self {
        Self {
            buffers: less(self.buffers, other.buffers),
            buffer_bytes: less(self.buffer_bytes, other.buffer_bytes),
            mapped_bytes: less(self.mapped_bytes, other.mapped_bytes),
            iova_bytes: less(self.iova_bytes, other.iova_bytes),
            mappings: less(self.mappings, other.mappings),
            page_table_bytes: less(self.page_table_bytes, other.page_table_bytes),
            requests: less(self.requests, other.requests),
            operations: less(self.operations, other.operations),
        }
    }
}

/// The difference. To give back more than was taken is a mistake of ours, which tests are to see and no client is to suffer
/// from.
const fn less(held: u64, given_back: u64) -> u64 {
    debug_assert!(held >= given_back, "more was given back than was taken");
    held.saturating_sub(given_back)
}

/// Names an account. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

impl AccountId {
    /// Nobody's, which there is not: what is charged to it is not counted.
    pub const NOBODY: Self = Self(0);
}

/// Whose an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// All sessions of a device.
    Device(PciAddress),
    /// All sessions of a user.
    Client(u32),
    /// One session.
    Session(SessionId),
    /// Handles that were derived with a quota of their own.
    Handles,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {device}"),
            Self::Client(uid) => write!(f, "user {uid}"),
            Self::Session(SessionId(number)) => write!(f, "session {number}"),
            Self::Handles => f.write_str("the handle"),
        }
    }
}

/// What one holds, and what it may.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose it is.
    pub holder: Holder,
    /// What it may hold.
    pub limits: Quotas,
    /// What it holds.
    pub held: Usage,
    /// Which limits something was refused by, and how often.
    pub refusals: BTreeMap<Resource, u64>,
    /// The accounts directly above it.
    above: [Option<AccountId>; 2],
    /// How many accounts are directly below it.
    below: usize,
    /// Whether something may still be charged to it.
    is_open: bool,
}

impl Account {
    /// The first limit that so much more would go beyond.
    fn exceeded(&self, more: &Usage) -> Option<Exceeded> {
        Resource::ALL.into_iter().find_map(|resource| {
            let (held, wanted) = (self.held.of(resource), more.of(resource));
            let limit = self.limits.of(resource).filter(|_| wanted > 0)?;
            let over = held.checked_add(wanted).is_none_or(|sum| sum > limit);
            let holder = self.holder;
            over.then_some(Exceeded { holder, resource, limit, held, wanted })
        })
    }
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose.
    pub holder: Holder,
    /// Of what.
    pub resource: Resource,
    /// How much may be held.
    pub limit: u64,
    /// How much is held.
    pub held: u64,
    /// How much more was wanted.
    pub wanted: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, resource, limit, held, wanted } = self;
        write!(f, "{holder} may hold {limit} of {resource}, holds {held} and wanted {wanted} more")
    }
}

impl From<Exceeded> for Error {
    fn from(exceeded: Exceeded) -> Self {
        match exceeded.resource {
            // These go by themselves: it is enough to wait.
            Resource::Requests | Resource::Operations => Self::TooManyRequests,
            _ => Self::QuotaExceeded,
        }
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    open: BTreeMap<AccountId, Account>,
    by_holder: BTreeMap<Holder, AccountId>,
    last: u64,
}

impl Accounts {
    /// Opens the account of a session, whose device and user may hold so much from now on.
    pub fn open_session(
        &mut self,
        session: SessionId,
        (device, of_device): (PciAddress, Quotas),
        (uid, of_user): (u32, Quotas),
    ) -> AccountId {
        let device = self.shared(Holder::Device(device), of_device);
        let client = self.shared(Holder::Client(uid), of_user);
        self.open(Holder::Session(session), Quotas::UNLIMITED, [Some(device), Some(client)])
    }

    /// Opens an account for handles that may hold no more than so much of what may be held on another. `None` if there is
    /// no such other.
    pub fn restrict(&mut self, above: AccountId, limits: Quotas) -> Option<AccountId> {
        self.open.get(&above).filter(|account| account.is_open)?;
        Some(self.open(Holder::Handles, limits, [Some(above), None]))
    }

    /// The account of a device or a user, which is there as long as there is one below it.
    fn shared(&mut self, holder: Holder, limits: Quotas) -> AccountId {
        match self.by_holder.get(&holder) {
            Some(id) => {
                if let Some(account) = self.open.get_mut(id) {
                    account.limits = limits;
                }
                *id
            }
            None => {
                let id = self.open(holder, limits, [None, None]);
                self.by_holder.insert(holder, id);
                // It ends with the last below it.
                self.open.entry(id).and_modify(|account| account.is_open = false);
                id
            }
        }
    }

    fn open(&mut self, holder: Holder, limits: Quotas, above: [Option<AccountId>; 2]) -> AccountId {
        self.last += 1;
        let id = AccountId(self.last);
        for above in above.iter().flatten() {
            self.open.entry(*above).and_modify(|account| account.below += 1);
        }
        let (held, refusals) = (Usage::NONE, BTreeMap::new());
        let account = Account { holder, limits, held, refusals, above, below: 0, is_open: true };
        self.open.insert(id, account);
        id
    }

    /// Nothing more will be charged to an account. It goes when nothing is held on it any more.
    pub fn close(&mut self, id: AccountId) {
        if let Some(account) = self.open.get_mut(&id) {
            account.is_open = false;
            self.tidy(id);
        }
    }

    /// Whether so much more may be held on an account and all above it.
    ///
    /// # Errors
    ///
    /// The first limit that is reached, from below.
    pub fn check(&mut self, id: AccountId, more: &Usage) -> Result<(), Exceeded> {
        self.fits(id, more).map_err(|(id, exceeded)| {
            if let Some(account) = self.open.get_mut(&id) {
                *account.refusals.entry(exceeded.resource).or_default() += 1;
            }
            exceeded
        })
    }

    /// The same without a note of what was refused; and whose limit it is.
    pub(crate) fn fits(&self, id: AccountId, more: &Usage) -> Result<(), (AccountId, Exceeded)> {
        let exceeded = self.chain(id).find_map(|(id, account)| Some((id, account.exceeded(more)?)));
        exceeded.map_or(Ok(()), Err)
    }

    /// Charges so much to an account and all above it, or nothing to any (rule R7).
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn charge(&mut self, id: AccountId, more: &Usage) -> Result<(), Exceeded> {
        self.check(id, more)?;
        self.add(id, more);
        Ok(())
    }

    /// Charges what there is already, whatever the limits are.
    pub fn add(&mut self, id: AccountId, more: &Usage) {
        self.each_above(id, |account| account.held = account.held.and(more));
    }

    /// Takes so much from an account and all above it.
    pub fn release(&mut self, id: AccountId, less: &Usage) {
        self.each_above(id, |account| account.held = account.held.without(less));
        self.tidy(id);
    }

    /// How much more of a resource may be held on an account and all above it.
    pub fn room(&self, id: AccountId, resource: Resource) -> u64 {
        let rooms = self.chain(id).map(|(_, account)| {
            let limit = account.limits.of(resource).unwrap_or(u64::MAX);
            limit.saturating_sub(account.held.of(resource))
        });
        rooms.min().unwrap_or(0)
    }

    /// Notes that something was refused by the limit of a resource that [`room`](Self::room) told, which it was found to be
    /// too much for only in the doing.
    pub fn refused(&mut self, id: AccountId, resource: Resource) {
        let least = self.chain(id).min_by_key(|(_, account)| {
            let limit = account.limits.of(resource).unwrap_or(u64::MAX);
            limit.saturating_sub(account.held.of(resource))
        });
        if let Some(id) = least.map(|(id, _)| id)
            && let Some(account) = self.open.get_mut(&id)
        {
            *account.refusals.entry(resource).or_default() += 1;
        }
    }

    /// Whether an account is another, or stands below it.
    pub fn is_within(&self, id: AccountId, of: AccountId) -> bool {
        self.chain(id).any(|(id, _)| id == of)
    }

    /// An account.
    pub fn get(&self, id: AccountId) -> Option<&Account> {
        self.open.get(&id)
    }

    /// The account of a device or user, if it holds anything or has a session.
    pub fn of(&self, holder: Holder) -> Option<&Account> {
        self.open.get(self.by_holder.get(&holder)?)
    }

    /// All accounts, by number.
    pub fn iter(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.open.iter().map(|(id, account)| (*id, account))
    }

    /// The account of the session that an account is of; itself, if there is none.
    pub(crate) fn session_of(&self, id: AccountId) -> AccountId {
        let of_session = |account: &Account| matches!(account.holder, Holder::Session(_));
        let found = self.chain(id).find(|(_, account)| of_session(account));
        found.map_or(id, |(session, _)| session)
    }

    /// An account and all above it, from below.
    pub fn chain(&self, id: AccountId) -> impl Iterator<Item = (AccountId, &Account)> {
        let mut next = [Some(id), None];
        core::iter::from_fn(move || {
            let id = next[0].take().or_else(|| next[1].take())?;
            let account = self.open.get(&id)?;
            // Only a session has two above it, and nothing is above those.
            if account.above != [None, None] {
                next = account.above;
            }
            Some((id, account))
        })
    }

    fn each_above(&mut self, id: AccountId, change: impl Fn(&mut Account)) {
        let mut next = [Some(id), None];
        while let Some(id) = next[0].take().or_else(|| next[1].take()) {
            let Some(account) = self.open.get_mut(&id) else { return };
            change(account);
            if account.above != [None, None] {
                next = account.above;
            }
        }
    }

    /// Forgets an account that is closed and holds nothing, and those above it that are so then.
    fn tidy(&mut self, id: AccountId) {
        let Some(account) = self.open.get(&id) else { return };
        if account.is_open || account.below > 0 || account.held != Usage::NONE {
            return;
        }
        let (holder, above) = (account.holder, account.above);
        self.open.remove(&id);
        if self.by_holder.get(&holder) == Some(&id) {
            self.by_holder.remove(&holder);
        }
        for above in above.into_iter().flatten() {
            self.open.entry(above).and_modify(|account| account.below -= 1);
            self.tidy(above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Quotas = Quotas { buffers: 3, buffer_bytes: 0x3000, ..Quotas::UNLIMITED };

    fn device(function: u8) -> PciAddress {
        PciAddress::new(0, 0, 2, function).unwrap()
    }

    fn buffers(buffers: u64) -> Usage {
        Usage { buffers, buffer_bytes: buffers * 0x1000, ..Usage::NONE }
    }

    fn opened(accounts: &mut Accounts, session: u64, of_user: Quotas) -> AccountId {
        let device = (device(session as u8), SMALL);
        accounts.open_session(SessionId(session), device, (0, of_user))
    }

    #[test]
    fn r7_a_charge_is_made_on_the_whole_chain_or_on_nothing() {
        let mut accounts = Accounts::default();
        let session = opened(&mut accounts, 1, Quotas { buffers: 2, ..Quotas::UNLIMITED });
        let handle = accounts.restrict(session, Quotas::UNLIMITED).unwrap();
        accounts.charge(handle, &buffers(2)).unwrap();
        let exceeded = accounts.charge(handle, &buffers(1)).unwrap_err();
        let holder = Holder::Client(0);
        let expected =
            Exceeded { holder, resource: Resource::Buffers, limit: 2, held: 2, wanted: 1 };
        assert_eq!(exceeded, expected);
        for (_, account) in accounts.iter() {
            assert_eq!(account.held, buffers(2), "{}", account.holder);
        }
        assert_eq!(accounts.of(holder).unwrap().refusals[&Resource::Buffers], 1);
        assert_eq!(Error::from(exceeded), Error::QuotaExceeded);
        let busy = Exceeded { resource: Resource::Operations, ..exceeded };
        assert_eq!(Error::from(busy), Error::TooManyRequests);
        accounts.release(handle, &buffers(2));
        assert!(accounts.iter().all(|(_, account)| account.held == Usage::NONE));
    }

    #[test]
    fn each_limit_holds_at_its_bound_and_not_one_before() {
        for resource in Resource::ALL {
            let (limit, mut one, mut limits) = (3, Usage::NONE, Quotas::UNLIMITED);
            let (usage, count, bytes) = match resource {
                Resource::Buffers => (&mut one.buffers, Some(&mut limits.buffers), None),
                Resource::BufferBytes => {
                    (&mut one.buffer_bytes, None, Some(&mut limits.buffer_bytes))
                }
                Resource::MappedBytes => {
                    (&mut one.mapped_bytes, None, Some(&mut limits.mapped_bytes))
                }
                Resource::IovaBytes => (&mut one.iova_bytes, None, Some(&mut limits.iova_bytes)),
                Resource::Mappings => (&mut one.mappings, Some(&mut limits.mappings), None),
                Resource::PageTableBytes => {
                    (&mut one.page_table_bytes, None, Some(&mut limits.page_table_bytes))
                }
                Resource::Requests => (&mut one.requests, Some(&mut limits.requests), None),
                Resource::Operations => (&mut one.operations, Some(&mut limits.operations), None),
            };
            *usage = 1;
            count.into_iter().for_each(|place| *place = limit);
            bytes.into_iter().for_each(|place| *place = limit.into());
            let mut accounts = Accounts::default();
            let session = opened(&mut accounts, 1, limits);
            let handle = accounts.restrict(session, limits).unwrap();
            for held in 0..3 {
                assert_eq!(accounts.room(handle, resource), 3 - held, "{resource}");
                accounts.charge(handle, &one).unwrap();
            }
            let exceeded = accounts.charge(handle, &one).unwrap_err();
            assert_eq!((exceeded.resource, exceeded.holder), (resource, Holder::Handles));
            assert_eq!((exceeded.limit, exceeded.held, exceeded.wanted), (3, 3, 1));
            // What wants nothing of it is not refused by it.
            accounts.charge(handle, &Usage::NONE).unwrap();
            accounts.release(handle, &one);
            accounts.charge(handle, &one).unwrap();
            // What there is already is counted, whatever the limit.
            accounts.add(handle, &one);
            assert_eq!(
                (accounts.room(handle, resource), accounts.get(handle).unwrap().held.of(resource)),
                (0, 4)
            );
            assert!(accounts.charge(handle, &one).is_err());
        }
    }

    #[test]
    fn users_and_devices_answer_for_all_their_sessions_and_no_others() {
        let mut accounts = Accounts::default();
        let limits = Quotas { buffers: 4, ..Quotas::UNLIMITED };
        let [one, other] = [1, 2].map(|number| opened(&mut accounts, number, limits));
        accounts.charge(one, &buffers(3)).unwrap();
        assert_eq!(
            accounts.charge(one, &buffers(1)).unwrap_err().holder,
            Holder::Device(device(1))
        );
        accounts.charge(other, &buffers(1)).unwrap();
        assert_eq!(accounts.charge(other, &buffers(1)).unwrap_err().holder, Holder::Client(0));
        let elsewhere = accounts.open_session(SessionId(3), (device(3), SMALL), (7, limits));
        accounts.charge(elsewhere, &buffers(3)).unwrap();
        let held = |holder| accounts.of(holder).unwrap().held.buffers;
        let devices = [1, 2, 3].map(|number| held(Holder::Device(device(number))));
        assert_eq!((devices, held(Holder::Client(0)), held(Holder::Client(7))), ([3, 1, 3], 4, 3));
    }

    #[test]
    fn what_outlives_a_session_counts_until_it_is_given_back_and_then_the_account_is_gone() {
        let mut accounts = Accounts::default();
        let first = opened(&mut accounts, 1, Quotas::UNLIMITED);
        let handle = accounts.restrict(first, Quotas::UNLIMITED).unwrap();
        accounts.charge(handle, &buffers(2)).unwrap();
        accounts.close(first);
        accounts.close(handle);
        let (next, of_user) = (SessionId(2), (0, Quotas::UNLIMITED));
        let next = accounts.open_session(next, (device(1), SMALL), of_user);
        accounts.charge(next, &buffers(1)).unwrap();
        assert_eq!(accounts.charge(next, &buffers(1)).unwrap_err().held, 3);
        assert!(accounts.restrict(first, SMALL).is_none(), "it has ended");
        accounts.release(handle, &buffers(2));
        assert!(accounts.get(handle).is_none() && accounts.get(first).is_none());
        accounts.charge(next, &buffers(2)).unwrap();
        accounts.release(next, &buffers(3));
        accounts.close(next);
        assert_eq!(accounts.iter().count(), 0);
    }

    #[test]
    fn r5_what_no_machine_has_is_refused_and_not_a_sum_that_runs_over() {
        let mut accounts = Accounts::default();
        let session = opened(&mut accounts, 1, Quotas::UNLIMITED);
        accounts.charge(session, &buffers(1)).unwrap();
        let huge = Usage { buffer_bytes: u64::MAX, ..Usage::NONE };
        assert_eq!(accounts.charge(session, &huge).unwrap_err().resource, Resource::BufferBytes);
        let unlimited = Usage { mapped_bytes: u64::MAX, ..Usage::NONE };
        accounts.charge(session, &unlimited).unwrap();
        assert_eq!(accounts.room(session, Resource::BufferBytes), 0x2000);
    }
}
