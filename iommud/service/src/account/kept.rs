//! What mappings turn over: what accounts keep of it, and where there is room besides.

use core::mem;

use iommu_engine::policy::Resource;

use super::{Account, AccountId, Accounts, Usage};

/// What mappings take and give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turned {
    /// How many.
    pub(crate) mappings: u64,
    /// How long they are.
    pub(crate) bytes: u64,
    /// How many bytes of addresses they have.
    pub(crate) iova_bytes: u64,
}

impl Turned {
    /// Nothing.
    pub(crate) const NONE: Self = Self { mappings: 0, bytes: 0, iova_bytes: 0 };

    /// So many mappings, of so many bytes together, without their addresses.
    #[inline]
    pub(crate) const fn mappings(mappings: u64, bytes: u64) -> Self {
        Self { mappings, bytes, iova_bytes: 0 }
    }

    /// Addresses, of so many bytes.
    #[inline]
    pub(crate) const fn addresses(iova_bytes: u64) -> Self {
        Self { iova_bytes, ..Self::NONE }
    }

    /// The same mappings with their addresses.
    #[inline]
    pub(crate) const fn with_addresses(self) -> Self {
        Self { iova_bytes: self.bytes, ..self }
    }

    /// It as usage.
    pub(crate) const fn usage(&self) -> Usage {
        Usage::NONE
            .with(Resource::Mappings, self.mappings)
            .with(Resource::MappedBytes, self.bytes)
            .with(Resource::IovaBytes, self.iova_bytes)
    }

    #[inline]
    const fn covers(&self, other: &Self) -> bool {
        (self.mappings >= other.mappings)
            & (self.bytes >= other.bytes)
            & (self.iova_bytes >= other.iova_bytes)
    }
}

/// What may be taken for tables on an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// How many bytes.
    pub(crate) table_bytes: u64,
    /// The account of the session that it is of; itself, if there is none.
    pub(crate) session: AccountId,
}

/// How much room there is on an account and all above it for what a request takes besides what mappings turn over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rooms {
    /// After how many changes of the accounts this was so.
    seen: u64,
    requests: u64,
    operations: u64,
    table_bytes: u64,
}

impl Rooms {
    /// Nobody has looked.
    pub(super) const UNSEEN: Self = Self { seen: 0, requests: 0, operations: 0, table_bytes: 0 };
}

impl Accounts {
    /// Charges an account with mappings of which it keeps what they take, so that they are within all limits, if a request may
    /// wait besides; to be told what may be taken for tables then. It `owes` as many bytes of addresses that have come to it,
    /// or gone from it, and are not counted.
    #[inline]
    pub(crate) fn take_kept(
        &mut self,
        id: AccountId,
        taken: &Turned,
        owes: i64,
    ) -> Option<Allowance> {
        let changes = self.changes;
        let Account { rooms, kept, session, .. } = self.get_mut(id)?;
        if rooms.seen != changes {
            self.look_for_rooms(id);
            return self.take_kept(id, taken, owes);
        }
        let addresses = taken.bytes.cast_signed().saturating_add(owes).max(0).cast_unsigned();
        let is_within = (kept.mappings >= taken.mappings)
            & (kept.bytes >= taken.bytes)
            & (kept.iova_bytes >= addresses)
            & (rooms.requests >= 1);
        if !is_within {
            return None;
        }
        kept.mappings -= taken.mappings;
        kept.bytes -= taken.bytes;
        Some(Allowance { table_bytes: rooms.table_bytes, session: *session })
    }

    /// What may be taken for tables on an account and all above it.
    pub(crate) fn allowance(&mut self, id: AccountId) -> Allowance {
        let table_bytes = self.rooms(id).table_bytes;
        Allowance { table_bytes, session: self.session_of(id) }
    }

    /// Whether one request more may wait, for so many unmaps, on an account and all above it.
    #[inline]
    pub(crate) fn may_wait(&mut self, id: AccountId, operations: u64) -> bool {
        let rooms = self.rooms(id);
        (rooms.requests >= 1) & (rooms.operations >= operations)
    }

    #[inline]
    fn rooms(&mut self, id: AccountId) -> Rooms {
        match self.get(id) {
            Some(account) if account.rooms.seen == self.changes => account.rooms,
            _ => self.look_for_rooms(id),
        }
    }

    #[inline(never)]
    fn look_for_rooms(&mut self, id: AccountId) -> Rooms {
        let most = u64::MAX;
        let mut rooms =
            Rooms { seen: self.changes, requests: most, operations: most, table_bytes: most };
        self.look_above(id, |account| {
            rooms.requests = rooms.requests.min(account.room(Resource::Requests));
            rooms.operations = rooms.operations.min(account.room(Resource::Operations));
            rooms.table_bytes = rooms.table_bytes.min(account.room(Resource::PageTableBytes));
        });
        match self.get_mut(id) {
            Some(account) => account.rooms = rooms,
            None => return Rooms::UNSEEN,
        }
        rooms
    }

    /// Charges what mappings have taken, whatever the limits are: of what the account keeps, if that is enough.
    #[inline]
    pub(crate) fn take(&mut self, id: AccountId, taken: &Turned) {
        let Some(account) = self.get_mut(id) else { return };
        let kept = &mut account.kept;
        if kept.covers(taken) {
            kept.mappings -= taken.mappings;
            kept.bytes -= taken.bytes;
            kept.iova_bytes -= taken.iova_bytes;
            return;
        }
        let taken = taken.usage();
        self.each_above(id, |account| account.held = account.held.and(&taken));
    }

    /// Has an account keep what mappings have given back. One that is closed holds it no more.
    #[inline]
    pub(crate) fn give_back(&mut self, id: AccountId, back: &Turned) {
        let Some(account) = self.get_mut(id) else { return };
        if account.is_open {
            account.kept.mappings += back.mappings;
            account.kept.bytes += back.bytes;
            account.kept.iova_bytes += back.iova_bytes;
            self.keeps_any = true;
            return;
        }
        let back = back.usage();
        self.each_above(id, |account| account.held = account.held.without(&back));
        self.tidy(id);
    }

    /// Charges an account with mappings that are to be made, and has it keep that until they are.
    pub(crate) fn put_aside(&mut self, id: AccountId, wanted: &Turned) {
        if self.get(id).is_some_and(|account| account.is_open) {
            let more = wanted.usage();
            self.each_above(id, |account| account.held = account.held.and(&more));
            self.give_back(id, wanted);
        }
    }

    /// Has nobody keep anything any more: what is held is what is in use.
    #[inline(never)]
    pub(crate) fn call_in(&mut self) {
        if !mem::take(&mut self.keeps_any) {
            return;
        }
        for place in 0..self.open.len() {
            if let Some(id) = self.open[place].as_ref().map(|account| account.id) {
                self.call_in_of(id);
            }
        }
    }

    /// Has an account keep nothing any more.
    pub(super) fn call_in_of(&mut self, id: AccountId) {
        let Some(account) = self.get_mut(id) else { return };
        let kept = mem::replace(&mut account.kept, Turned::NONE).usage();
        self.each_above(id, |account| account.held = account.held.without(&kept));
    }
}
