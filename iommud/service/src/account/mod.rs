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
//!
//! # What is kept
//!
//! Mapping and unmapping turn over the same few numbers on the same accounts again and again. So what a mapping held is kept
//! by the account that it was on, and counts as held by that and all above it, until the next mapping takes it or it is
//! called in: before anything is refused by whatever limit, and before anybody looks. So nobody can tell that it was kept.

mod accounts;
mod kept;
mod usage;

use alloc::collections::BTreeMap;
use core::fmt;

use dma_types::PciAddress;
use iommu_engine::policy::{Quotas, Resource};
use libdma::Error;
use libdma::protocol::limit::{self, Limit};
use zerocopy::little_endian::{U32, U64};

pub use self::accounts::Accounts;
use self::kept::Rooms;
pub(crate) use self::kept::{Allowance, Turned};
pub use self::usage::Usage;
use crate::sessions::session::SessionId;

/// Names an account, and says where it is. Names are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

/// How many of the low bits of an account's name say where it is. There is no memory for so many accounts.
const PLACE_BITS: u32 = 28;

impl AccountId {
    /// Nobody's, which there is not: what is charged to it is not counted.
    pub const NOBODY: Self = Self(0);

    /// The first account in this place.
    const fn first(place: usize) -> Self {
        Self(1 << PLACE_BITS | place as u64)
    }

    /// The one that comes after it in its place, if that has a name left.
    fn next(self) -> Option<Self> {
        self.0.checked_add(1 << PLACE_BITS).map(Self)
    }

    /// Where it is.
    const fn place(self) -> usize {
        (self.0 & ((1 << PLACE_BITS) - 1)) as usize
    }
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
    id: AccountId,
    /// The how manieth it is that was opened.
    number: u64,
    /// Whose it is.
    pub holder: Holder,
    /// What it may hold.
    pub limits: Quotas,
    /// The same, as what is held is compared with it.
    most: Usage,
    is_unlimited: bool,
    /// What it holds, what it keeps included.
    pub held: Usage,
    /// What of that mappings gave back, and it keeps for the next.
    kept: Turned,
    /// What there is room for on it and all above it, as it was seen last.
    rooms: Rooms,
    /// The account of the session that it is of.
    session: AccountId,
    /// Which limits something was refused by, and how often.
    pub refusals: BTreeMap<Resource, u64>,
    /// The limit that something was last refused by that was to be charged to it, its own or that of one above it.
    last: Option<Exceeded>,
    /// The accounts directly above it.
    above: [Option<AccountId>; 2],
    /// How many accounts are directly below it.
    below: usize,
    /// Whether something may still be charged to it.
    is_open: bool,
}

impl Account {
    /// How much more of a resource it may hold.
    #[inline]
    fn room(&self, resource: Resource) -> u64 {
        self.most[resource].saturating_sub(self.held[resource])
    }

    /// Whether it may hold so much more.
    #[inline]
    fn has_room(&self, more: &Usage) -> bool {
        self.is_unlimited || self.held.leaves_room(more, &self.most)
    }

    /// From now on it may hold so much.
    fn limit(&mut self, limits: Quotas) {
        (self.limits, self.most) = (limits, Usage::most(&limits));
        self.is_unlimited = self.most == Usage::most(&Quotas::UNLIMITED);
    }

    /// The first limit that so much more would go beyond.
    fn exceeded(&self, more: &Usage) -> Option<Exceeded> {
        Resource::ALL.into_iter().filter(|resource| more[*resource] > 0).find_map(|resource| {
            let (held, wanted) = (self.held[resource], more[resource]);
            let limit = self.limits.of(resource)?;
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

impl Exceeded {
    /// It as it lies on the wire.
    pub fn told(&self) -> Limit {
        let resource = match self.resource {
            Resource::Buffers => limit::Resource::Buffers,
            Resource::BufferBytes => limit::Resource::BufferBytes,
            Resource::MappedBytes => limit::Resource::MappedBytes,
            Resource::IovaBytes => limit::Resource::IovaBytes,
            Resource::Mappings => limit::Resource::Mappings,
            Resource::PageTableBytes => limit::Resource::PageTableBytes,
            Resource::Requests => limit::Resource::Requests,
            Resource::Operations => limit::Resource::Operations,
        };
        let level = match self.holder {
            Holder::Handles => limit::Level::Handle,
            // A session has no limits of its own.
            Holder::Session(_) | Holder::Device(_) => limit::Level::Device,
            Holder::Client(_) => limit::Level::User,
        };
        Limit {
            resource: U32::new(resource as u32),
            level: U32::new(level as u32),
            limit: U64::new(self.limit),
            held: U64::new(self.held),
            wanted: U64::new(self.wanted),
        }
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
