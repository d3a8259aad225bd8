//! All accounts, and which stands above which.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::policy::{Quotas, Resource};
use libdma::Error;

use super::kept::{Rooms, Turned};
use super::{Account, AccountId, Exceeded, Holder, Usage};
use crate::sessions::session::SessionId;

/// How many accounts there are in a chain at the most: a device's, a user's, a session's, and the rest of handles that were
/// derived from each other with a quota.
const DEEPEST: usize = 19;

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Each in its place.
    pub(super) open: Vec<Option<Account>>,
    /// Those that may be opened in places that are free.
    free: Vec<AccountId>,
    by_holder: BTreeMap<Holder, AccountId>,
    /// How many have been opened.
    opened: u64,
    /// How often anything has changed by which [`Rooms`] may be others.
    pub(super) changes: u64,
    /// Whether some account may keep something.
    pub(super) keeps_any: bool,
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

    /// Opens an account for handles that may hold no more than so much of what may be held on another.
    ///
    /// # Errors
    ///
    /// [`Error::SessionEnded`] if there is no such other, [`Error::QuotaExceeded`] if too many stand above that already. An account
    /// stays as long as there is one below it, so that else whoever derives from what it derived, and closes what it
    /// derived from, would have as many as it liked.
    pub fn restrict(&mut self, above: AccountId, limits: Quotas) -> Result<AccountId, Error> {
        self.get(above).filter(|account| account.is_open).ok_or(Error::SessionEnded)?;
        if self.chain(above).count() >= DEEPEST {
            return Err(Error::QuotaExceeded);
        }
        Ok(self.open(Holder::Handles, limits, [Some(above), None]))
    }

    /// The account of a device or a user, which is there as long as there is one below it.
    fn shared(&mut self, holder: Holder, limits: Quotas) -> AccountId {
        if let Some(&id) = self.by_holder.get(&holder) {
            self.changes += 1;
            if let Some(account) = self.get_mut(id) {
                account.limit(limits);
            }
            return id;
        }
        let id = self.open(holder, limits, [None, None]);
        self.by_holder.insert(holder, id);
        if let Some(account) = self.get_mut(id) {
            // It ends with the last below it.
            account.is_open = false;
        }
        id
    }

    fn open(&mut self, holder: Holder, limits: Quotas, above: [Option<AccountId>; 2]) -> AccountId {
        self.opened += 1;
        self.changes += 1;
        let number = self.opened;
        let id = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            AccountId::first(self.open.len() - 1)
        });
        let session = match holder {
            Holder::Handles => above[0].and_then(|above| self.get(above)).map(|it| it.session),
            _ => None,
        };
        for above in above.into_iter().flatten() {
            if let Some(account) = self.get_mut(above) {
                account.below += 1;
            }
        }
        let mut account = Account {
            id,
            number,
            holder,
            limits,
            most: Usage::NONE,
            is_unlimited: false,
            held: Usage::NONE,
            kept: Turned::NONE,
            rooms: Rooms::UNSEEN,
            session: session.unwrap_or(id),
            refusals: BTreeMap::new(),
            last: None,
            above,
            below: 0,
            is_open: true,
        };
        account.limit(limits);
        self.open[id.place()] = Some(account);
        id
    }

    /// Nothing more will be charged to an account. It goes when nothing is held on it any more.
    pub fn close(&mut self, id: AccountId) {
        self.call_in_of(id);
        if let Some(account) = self.get_mut(id) {
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
        self.fits(id, more).map_err(|(limit, exceeded)| {
            self.note(id, limit, exceeded);
            exceeded
        })
    }

    /// Notes that something that was to be charged to an account was refused by the limit of one.
    pub(crate) fn note(&mut self, id: AccountId, limit: AccountId, exceeded: Exceeded) {
        if let Some(account) = self.get_mut(limit) {
            *account.refusals.entry(exceeded.resource).or_default() += 1;
        }
        if let Some(account) = self.get_mut(id) {
            account.last = Some(exceeded);
        }
    }

    /// The limit that something was last refused by that was to be charged to an account, if this is asked for the first
    /// time since.
    pub(crate) fn take_last(&mut self, id: AccountId) -> Option<Exceeded> {
        self.get_mut(id)?.last.take()
    }

    /// The same without a note of what was refused; and whose limit it is. What accounts keep is called in before anything is
    /// refused.
    pub(crate) fn fits(
        &mut self,
        id: AccountId,
        more: &Usage,
    ) -> Result<(), (AccountId, Exceeded)> {
        let mut has_room = true;
        self.look_above(id, |account| has_room &= account.has_room(more));
        if has_room {
            return Ok(());
        }
        self.call_in();
        self.exceeded(id, more)
    }

    /// Which limit is reached, if one is.
    fn exceeded(&self, id: AccountId, more: &Usage) -> Result<(), (AccountId, Exceeded)> {
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
        self.changes += 1;
        self.each_above(id, |account| account.held = account.held.and(more));
    }

    /// Takes so much from an account and all above it.
    pub fn release(&mut self, id: AccountId, less: &Usage) {
        self.changes += 1;
        self.each_above(id, |account| account.held = account.held.without(less));
        self.tidy(id);
    }

    /// How much more of a resource may be held on an account and all above it, what accounts keep left as it is.
    pub fn room(&self, id: AccountId, resource: Resource) -> u64 {
        let mut least = None;
        self.look_above(id, |account| {
            let room = account.room(resource);
            least = Some(least.map_or(room, |least: u64| least.min(room)));
        });
        least.unwrap_or(0)
    }

    /// Notes that something was refused by the limit of a resource that [`room`](Self::room) told, which it was found to be
    /// too much for only in the doing: at least so much was wanted.
    pub fn refused(&mut self, id: AccountId, resource: Resource, wanted: u64) {
        if let Some(tightest) = self.tightest(id, resource)
            && let Some(account) = self.get(tightest)
            && let Some(limit) = account.limits.of(resource)
        {
            let (holder, held) = (account.holder, account.held[resource]);
            self.note(id, tightest, Exceeded { holder, resource, limit, held, wanted });
        }
    }

    /// Of an account and all above it, the one with the least room for a resource.
    pub(crate) fn tightest(&self, id: AccountId, resource: Resource) -> Option<AccountId> {
        self.chain(id).min_by_key(|(_, account)| account.room(resource)).map(|(id, _)| id)
    }

    /// Whether an account is another, or stands below it.
    pub fn is_within(&self, id: AccountId, of: AccountId) -> bool {
        self.chain(id).any(|(id, _)| id == of)
    }

    /// Counts so much more of some resources on an account and all above it, whatever the limits are, or so much less where it
    /// is negative.
    pub(crate) fn turn(&mut self, id: AccountId, changes: &[(Resource, i64)]) {
        self.changes += 1;
        self.each_above(id, |account| {
            changes.iter().for_each(|(resource, change)| account.held.turn(*resource, *change));
        });
        // What has come is counted by now: an account that is closed goes with the last that it holds.
        self.tidy(id);
    }

    /// An account.
    #[inline]
    pub fn get(&self, id: AccountId) -> Option<&Account> {
        self.open.get(id.place())?.as_ref().filter(|account| account.id == id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.open.get_mut(id.place())?.as_mut().filter(|account| account.id == id)
    }

    /// The account of a device or user, if it holds anything or has a session.
    pub fn of(&self, holder: Holder) -> Option<&Account> {
        self.get(*self.by_holder.get(&holder)?)
    }

    /// All accounts, in the order in which they were opened.
    pub fn iter(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        let mut all: Vec<_> = self.open.iter().flatten().map(|it| (it.id, it)).collect();
        all.sort_unstable_by_key(|(_, account)| account.number);
        all.into_iter()
    }

    /// How many buffers the device of an account may have.
    pub(crate) fn buffers_of(&self, id: AccountId) -> usize {
        let of_device = |account: &Account| matches!(account.holder, Holder::Device(_));
        let device = self.chain(id).find(|(_, account)| of_device(account));
        let most = device.map_or(Some(0), |(_, account)| account.limits.of(Resource::Buffers));
        most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// The account of the session that an account is of; itself, if there is none.
    #[inline]
    pub(crate) fn session_of(&self, id: AccountId) -> AccountId {
        self.get(id).map_or(id, |account| account.session)
    }

    /// An account and all above it, from below.
    pub fn chain(&self, id: AccountId) -> impl Iterator<Item = (AccountId, &Account)> {
        let mut next = [Some(id), None];
        core::iter::from_fn(move || {
            let id = next[0].take().or_else(|| next[1].take())?;
            let account = self.get(id)?;
            // Only a session has two above it, and nothing is above those.
            if account.above != [None, None] {
                next = account.above;
            }
            Some((id, account))
        })
    }

    /// Looks at an account and all above it, from below.
    #[inline]
    pub(super) fn look_above(&self, id: AccountId, mut look: impl FnMut(&Account)) {
        let mut next = Some(id);
        while let Some(account) = next.and_then(|id| self.get(id)) {
            look(account);
            let [first, second] = account.above;
            // Only a session has two above it, and nothing is above those.
            if let Some(account) = second.and_then(|id| self.get(id)) {
                look(account);
            }
            next = first;
        }
    }

    /// The same, to change them.
    #[inline]
    pub(super) fn each_above(&mut self, id: AccountId, mut change: impl FnMut(&mut Account)) {
        let mut next = Some(id);
        while let Some(account) = next.and_then(|id| self.get_mut(id)) {
            change(account);
            let [first, second] = account.above;
            if let Some(account) = second.and_then(|id| self.get_mut(id)) {
                change(account);
            }
            next = first;
        }
    }

    /// Forgets an account that is closed and holds nothing, and those above it that are so then.
    #[inline]
    pub(super) fn tidy(&mut self, id: AccountId) {
        if self.get(id).is_some_and(|account| !account.is_open) {
            self.end_if_unused(id);
        }
    }

    #[inline(never)]
    fn end_if_unused(&mut self, id: AccountId) {
        let Some(account) = self.get(id) else { return };
        if account.below > 0 || account.held != Usage::NONE {
            return;
        }
        let (holder, above) = (account.holder, account.above);
        self.open[id.place()] = None;
        // A place whose names are used up stays empty.
        self.free.extend(id.next());
        if self.by_holder.get(&holder) == Some(&id) {
            self.by_holder.remove(&holder);
        }
        for above in above.into_iter().flatten() {
            if let Some(account) = self.get_mut(above) {
                account.below -= 1;
            }
            self.tidy(above);
        }
    }
}

#[cfg(test)]
mod tests;
