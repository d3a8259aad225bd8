//! Sessions: an open device, its domain and its buffers.

use alloc::collections::{BTreeMap, BTreeSet};

use dma_types::{Access, CacheType, Iova, PciAddress};
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::ledger::Slot;
use iommu_engine::platform::RunId;
use libdma::protocol::{Rights, Secret};

use crate::account::AccountId;
use crate::faults::events::Events;
use crate::faults::history::History;
use crate::memory::label::Label;
use crate::memory::mapped::BufferMappings;
use crate::memory::peer_bars::PeerBarId;
use crate::numbered::Numbered;
use crate::records::SessionRecord;
use crate::sessions::domains::Inside;
use crate::sessions::numbers::NumbersRecord;
use crate::sessions::orphans::Orphaned;

/// Names a session. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Names a buffer. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u64);

/// An open device: from its opening until its last handle is gone.
#[derive(Debug)]
pub struct Session {
    /// The device.
    pub device: PciAddress,
    /// Its own domain: one that was made for its group.
    pub domain: DomainKey,
    /// The explicit domain that it is in instead.
    pub entered: Option<Inside>,
    /// What units have yet to confirm of its moves into domains and back.
    pub moved: Completion,
    /// Who opened it.
    pub uid: u32,
    /// Which session of the device this is.
    pub generation: u64,
    /// What proves after a restart which objects are this client's. It is in the ledger too.
    pub secret: Secret,
    /// On which account it is what it holds.
    pub account: AccountId,
    /// How many handles there are to the device.
    pub handles: u32,
    /// The explicit domains that it has made.
    pub domains: BTreeSet<DomainKey>,
    /// Its buffers.
    pub buffers: BTreeSet<BufferId>,
    /// The parts of other devices' BARs that its device reaches.
    pub peer_bars: BTreeSet<PeerBarId>,
    /// What happened to its device and nobody has read.
    pub unread: Events,
    /// What was mapped for it.
    pub history: History,
    /// What it has from before a restart, and nobody has claimed.
    pub orphaned: Option<Orphaned>,
    /// Its record in the ledger.
    pub slot: Slot,
}

impl Session {
    /// The session of a record in this slot of the ledger, which holds nothing and has no handle yet.
    pub(crate) fn of(record: &SessionRecord, slot: Slot, account: AccountId) -> Self {
        let SessionRecord { device, domain, generation, uid, secret, .. } = *record;
        Self {
            device,
            domain: DomainKey(domain),
            entered: None,
            moved: Completion::none(),
            uid,
            generation,
            secret,
            account,
            handles: 0,
            domains: BTreeSet::new(),
            buffers: BTreeSet::new(),
            peer_bars: BTreeSet::new(),
            unread: Events::default(),
            history: History::new(),
            orphaned: None,
            slot,
        }
    }
}

/// A buffer: from its allocation until its last handle is gone.
#[derive(Debug)]
pub struct Buffer {
    /// The session that it belongs to; `None` once that has ended.
    pub session: Option<SessionId>,
    /// The device of that session.
    pub device: PciAddress,
    /// On which account it is.
    pub account: AccountId,
    /// Its memory, which buffers of other sessions may be of too.
    pub run: RunId,
    /// Its length.
    pub bytes: u64,
    /// How CPUs cache it.
    pub cache: CacheType,
    /// What reports call it.
    pub label: Label,
    /// The most that the device may do with it, if anything.
    pub allowed: Option<Access>,
    /// The rights that the first handle to it had: the most that there are.
    pub rights: Rights,
    /// How it was mapped when it was made.
    pub first: Option<(Iova, Access)>,
    /// Whether anybody was told where that is.
    pub is_told: bool,
    /// Every mapping of it that there is.
    pub mappings: BufferMappings,
    /// How many handles there are to it, those that were revoked included.
    pub handles: u32,
    /// How many of them were revoked.
    pub revoked: u32,
    /// Whether all of them once were, which the ledger says, too: nobody ever has one again.
    pub is_ended: bool,
    /// What units have yet to confirm before nothing reaches its memory.
    pub unmapped: Completion,
    /// Whether its record says that its mapping is strict.
    pub is_noted_strict: bool,
    /// Its record in the ledger.
    pub slot: Slot,
}

impl Buffer {
    /// Whether the device may have it so.
    #[inline]
    pub fn allows(&self, access: Access) -> bool {
        self.allowed.is_some_and(|allowed| access.is_within(allowed))
    }

    /// Whether all handles to it were revoked: it is there for the memory that their holders have mapped.
    pub const fn is_revoked(&self) -> bool {
        self.is_ended || (self.handles > 0 && self.revoked == self.handles)
    }

    /// Whether it is mapped at an address that somebody was told, and may have told the device.
    pub fn is_known_to_a_driver(&self) -> bool {
        let untold = self.first.filter(|_| !self.is_told).map(|(iova, _)| iova);
        self.mappings.keys().any(|(_, iova)| Some(*iova) != untold)
    }
}

/// All sessions and buffers.
#[derive(Debug, Default)]
pub struct Sessions {
    /// The sessions.
    pub sessions: Numbered<SessionId, Session>,
    /// The buffers.
    pub buffers: Numbered<BufferId, Buffer>,
    last_session: u64,
    last_buffer: u64,
    /// The latest generation of each device that has one.
    generations: BTreeMap<PciAddress, u64>,
    /// The highest numbers that a daemon before this one may have given out.
    before: NumbersRecord,
}

impl Sessions {
    /// The number of the next session.
    pub fn next_session(&mut self) -> SessionId {
        self.last_session += 1;
        SessionId(self.last_session)
    }

    /// The number of the next buffer.
    pub fn next_buffer(&mut self) -> BufferId {
        self.last_buffer += 1;
        BufferId(self.last_buffer)
    }

    /// Counts on from these.
    pub(crate) fn count_from(&mut self, before: NumbersRecord) {
        self.last_session = self.last_session.max(before.session);
        self.last_buffer = self.last_buffer.max(before.buffer);
        self.before = before;
    }

    /// The highest numbers that were given out.
    pub(crate) fn highest(&self) -> NumbersRecord {
        let generations = self.generations.values().copied().max().unwrap_or(0);
        NumbersRecord {
            session: self.last_session,
            buffer: self.last_buffer,
            generation: generations.max(self.before.generation),
            incarnation: self.before.incarnation,
        }
    }

    /// The next generation of a device, for it has been opened, or its session resumed.
    pub fn next_generation(&mut self, device: PciAddress) -> u64 {
        let before = self.before.generation;
        let generation = self.generations.entry(device).or_insert(before);
        *generation += 1;
        *generation
    }

    /// The session that holds a device.
    pub fn of_device(&self, device: PciAddress) -> Option<(SessionId, &Session)> {
        let mut all = self.sessions.iter();
        all.find(|(_, session)| session.device == device).map(|(id, session)| (*id, session))
    }
}
