//! Handles: what each is of, and what it allows.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dma_types::PciAddress;
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use libdma::Error;
use libdma::protocol::Rights;

use crate::handles::bounds::Bounds;
use crate::handles::tree::{Gone, Tree};
use crate::memory::buffers::BufferSpec;
use crate::memory::mappings::Asker;
use crate::memory::peer_bars::PeerBarId;
use crate::numbered::Numbered;
use crate::sessions::session::{BufferId, SessionId};

/// Names a handle to the transport. Numbers are never used again, so that a stale one is an error and
/// not somebody else's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u64);

/// What a handle is of.
// Which it is, is asked with each request: it is a number of its own, and not told by what a pointer cannot be.
#[derive(Clone, Debug)]
#[repr(u8)]
pub enum Object {
    /// The scheme's root, from which paths are opened.
    Root,
    /// A text node, as it was when it was opened: a reader sees one moment, however it reads.
    Text(String),
    /// A device, by the session that its opening began.
    Device(SessionId),
    /// A domain that a client has made.
    Domain(DomainKey),
    /// A buffer.
    Buffer(BufferId),
    /// A part of another device's BAR.
    PeerBar(PeerBarId),
    /// A device, for a session of before to be resumed.
    Resume(PciAddress),
    /// The quarantine of a device, for the administrator to end.
    Quarantine(PciAddress),
    /// A buffer of a session that has no memory yet.
    Registration(SessionId, Box<BufferSpec>),
}

/// Whether the transport is told when a handle's session has something to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It has not asked.
    Off,
    /// When there is something, it is told.
    Armed,
    /// It was told, and nothing has been read on this handle since.
    Told,
}

/// What has been said on a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing yet.
    None,
    /// Which protocol its client speaks.
    Said,
    /// The same, before the device was reset.
    BeforeReset,
}

/// One handle.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What it is of.
    pub object: Object,
    /// What it allows.
    pub rights: Rights,
    /// What is mapped by it is within these bounds.
    pub bounds: Bounds,
    /// Whether the client has said which protocol it speaks.
    pub greeting: Greeting,
    /// Whether its transport is told of faults.
    pub watch: Watch,
    /// The user who opened what it came of.
    pub uid: u32,
    /// What its holder was called where it was derived within bounds.
    pub label: String,
}

impl Handle {
    /// A handle whose client has said nothing yet.
    pub const fn new(object: Object, rights: Rights) -> Self {
        let (bounds, greeting) = (Bounds::NONE, Greeting::None);
        Self { object, rights, bounds, greeting, watch: Watch::Off, uid: 0, label: String::new() }
    }

    /// A handle to something of which clients know what it is.
    pub const fn greeted(object: Object, rights: Rights) -> Self {
        let (bounds, greeting) = (Bounds::NONE, Greeting::Said);
        Self { object, rights, bounds, greeting, watch: Watch::Off, uid: 0, label: String::new() }
    }

    /// The same handle, of a user's.
    pub fn of(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    /// Refuses a handle on which it has not been said which protocol its client speaks.
    pub fn check_greeted(&self) -> Result<(), Error> {
        match self.greeting {
            Greeting::None => Err(Error::NoHandshake),
            Greeting::Said => Ok(()),
            Greeting::BeforeReset => Err(Error::DeviceReset),
        }
    }

    /// Refuses a handle that was derived within bounds, and what came of one: what is the whole device's is not for who
    /// was given a part of it (rule R3).
    pub fn require_whole(&self) -> Result<(), Error> {
        if self.bounds.account.is_none() { Ok(()) } else { Err(Error::NotPermitted) }
    }

    /// Refuses what the handle does not allow.
    pub fn require(&self, rights: Rights) -> Result<(), Error> {
        self.check_greeted()?;
        if self.rights.contains(rights) { Ok(()) } else { Err(Error::NotPermitted) }
    }
}

/// How many handles may come of one that was opened, besides as many as its device may have buffers. Closed ones count for as
/// long as something that is open came of them. Transports that know their clients have limits of their own; this one holds
/// for whoever was passed a handle, on any of them.
pub const MOST_DERIVED: usize = 4096;

/// Where in a handle's number it is told how many daemons were adopted from before it.
const INCARNATION_SHIFT: u32 = 40;

impl HandleId {
    /// The root of a scheme, if its transport asks for that first.
    pub const FIRST: Self = Self(1);

    /// How many daemons had been adopted from when it was made.
    pub const fn incarnation(self) -> u64 {
        self.0 >> INCARNATION_SHIFT
    }
}

impl fmt::Display for HandleId {
    /// As reports show it: `3`, and `3@2` if it was the third of a daemon that went on after two restarts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 & ((1 << INCARNATION_SHIFT) - 1))?;
        match self.incarnation() {
            0 => Ok(()),
            restarts => write!(f, "@{restarts}"),
        }
    }
}

/// A handle, and whether it was revoked.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The handle.
    pub handle: Handle,
    /// If it was revoked, what units have to confirm of that.
    pub revoked: Option<Completion>,
    /// The handle that was opened of which it came; itself, if it was opened.
    origin: HandleId,
}

impl Entry {
    /// Whether it was revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_some()
    }
}

/// All handles, those that were revoked included until they are closed.
#[derive(Debug, Default)]
pub struct Handles {
    open: Numbered<HandleId, Entry>,
    /// Those that were closed, and that something came of that is open.
    closed: BTreeMap<HandleId, Entry>,
    tree: Tree,
    /// How many came of each handle that was opened.
    derived: BTreeMap<HandleId, usize>,
    last: u64,
    /// Who asked last for a mapping by a device's handle, as long as nothing of any handle has changed since.
    mapper: Option<Asker>,
}

impl Handles {
    /// None yet, with numbers that no daemon before this one gave out, if so many have adopted what the first one made.
    pub(crate) fn since(incarnation: u64) -> Self {
        Self { last: incarnation << INCARNATION_SHIFT, ..Self::default() }
    }

    /// Gives a new handle a number, which was derived from nothing.
    pub fn insert(&mut self, handle: Handle) -> HandleId {
        self.last += 1;
        self.insert_as(HandleId(self.last), handle)
    }

    /// Gives the first handle of all its number, which is the same in every daemon: its scheme has it before there is
    /// a service that could say another.
    pub fn insert_first(&mut self, handle: Handle) -> HandleId {
        if self.open.contains_key(&HandleId::FIRST) {
            return self.insert(handle);
        }
        self.last = self.last.max(HandleId::FIRST.0);
        self.insert_as(HandleId::FIRST, handle)
    }

    fn insert_as(&mut self, id: HandleId, handle: Handle) -> HandleId {
        self.open.insert(id, Entry { handle, revoked: None, origin: id });
        self.tree.enter(id, &[]);
        id
    }

    /// The same for one that was derived from these handles. It is of the user of the first, and within the bounds of
    /// that.
    pub fn insert_below(&mut self, handle: Handle, parents: &[HandleId]) -> HandleId {
        let parent = parents.first().and_then(|parent| self.open.get(parent));
        let handle = match parent.map(|parent| (parent.handle.uid, parent.handle.bounds)) {
            Some((uid, bounds)) => Handle { uid, bounds, ..handle },
            None => handle,
        };
        let origin = parent.map(|parent| parent.origin);
        let id = self.insert(handle);
        self.tree.enter(id, parents);
        if let (Some(origin), Some(entry)) = (origin, self.open.get_mut(&id)) {
            entry.origin = origin;
            *self.derived.entry(origin).or_default() += 1;
        }
        id
    }

    /// How many handles there are that came of the same one that was opened as this did, those that were revoked and not
    /// closed included, and those that are closed and in the tree.
    pub(crate) fn derived_beside(&self, id: HandleId) -> usize {
        let origin = self.open.get(&id).map(|entry| entry.origin);
        origin.and_then(|origin| self.derived.get(&origin)).copied().unwrap_or(0)
    }

    /// Which was derived from which.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The handle of this number.
    ///
    /// # Errors
    ///
    /// [`Error::BadHandle`] if there is none, [`Error::Revoked`].
    #[inline]
    pub fn get(&self, id: HandleId) -> Result<&Handle, Error> {
        match self.open.get(&id) {
            Some(Entry { revoked: Some(_), .. }) => Err(Error::Revoked),
            Some(Entry { handle, .. }) => Ok(handle),
            None => Err(Error::BadHandle),
        }
    }

    /// The handle of this number, to change.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_mut(&mut self, id: HandleId) -> Result<&mut Handle, Error> {
        self.mapper = None;
        match self.open.get_mut(&id) {
            Some(Entry { revoked: Some(_), .. }) => Err(Error::Revoked),
            Some(Entry { handle, .. }) => Ok(handle),
            None => Err(Error::BadHandle),
        }
    }

    /// All that were not revoked, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (HandleId, &mut Handle)> {
        self.mapper = None;
        let live = self.open.iter_mut().filter(|(_, entry)| !entry.is_revoked());
        live.map(|(id, entry)| (*id, &mut entry.handle))
    }

    /// All, those that were revoked included.
    pub fn entries(&self) -> impl Iterator<Item = (HandleId, &Entry)> {
        self.open.iter().map(|(id, entry)| (*id, entry))
    }

    /// The handle of this number, also if it was revoked.
    #[inline]
    pub(crate) fn entry(&self, id: HandleId) -> Option<&Entry> {
        self.open.get(&id)
    }

    /// Who asks by this handle, if that is who asked last for a mapping.
    #[inline]
    pub(crate) fn mapper(&self, by: HandleId) -> Option<&Asker> {
        self.mapper.as_ref().filter(|asker| asker.by == by)
    }

    /// Notes who asks for a mapping by a device's handle, which may.
    pub(crate) fn set_mapper(&mut self, asker: Asker) {
        self.mapper = Some(asker);
    }

    /// A handle, also if it was revoked, or was closed and something that came of it is open.
    pub(crate) fn known(&self, id: HandleId) -> Option<&Entry> {
        self.open.get(&id).or_else(|| self.closed.get(&id))
    }

    /// The handle that was opened of which this came, if either is known.
    pub(crate) fn opened_for(&self, id: HandleId) -> Option<&Handle> {
        self.known(self.known(id)?.origin).map(|entry| &entry.handle)
    }

    /// Marks a handle as revoked; from when that is confirmed by units, no device reaches anything by it.
    pub(crate) fn revoke(&mut self, id: HandleId, confirmed: &Completion) {
        self.mapper = None;
        if let Some(entry) = self.open.get_mut(&id) {
            entry.revoked.get_or_insert_default().join(confirmed);
        }
    }

    /// Closes a handle: what it was, and what is gone with it of what has mapped something or moved a device, each with who
    /// has that from now on.
    pub(crate) fn close(&mut self, id: HandleId) -> Option<(Entry, Vec<(Object, Gone)>)> {
        self.mapper = None;
        let entry = self.open.remove(&id)?;
        let all = self.tree.close(id);
        if all.is_empty() {
            self.closed.insert(id, entry.clone());
        }
        let mut mappers = Vec::new();
        for gone in all {
            let closed = self.closed.remove(&gone.handle);
            let Entry { handle, origin, .. } = closed.as_ref().unwrap_or(&entry);
            if let Object::Device(_) | Object::Domain(_) = handle.object {
                mappers.push((handle.object.clone(), gone));
            }
            if *origin != gone.handle
                && let Some(derived) = self.derived.get_mut(origin)
            {
                *derived -= 1;
                if *derived == 0 {
                    self.derived.remove(origin);
                }
            }
        }
        Some((entry, mappers))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use dma_types::Iova;

    use super::*;

    #[test]
    fn what_comes_of_a_handle_is_its_users_and_within_its_bounds() {
        let mut handles = Handles::default();
        let of_device = || Handle::greeted(Object::Device(SessionId(1)), Rights::DEVICE);
        let bounds = Bounds { first: Iova::new(0x1000), ..Bounds::NONE };
        let opened = handles.insert(Handle { bounds, ..of_device() }.of(7));
        let other = handles.insert(of_device().of(8));
        let derived = handles.insert_below(of_device(), &[opened, other]);
        let last = handles.insert_below(of_device().of(9), &[derived]);
        for id in [derived, last] {
            let Handle { uid, bounds: within, .. } = handles.get(id).unwrap();
            assert_eq!((*uid, *within), (7, bounds));
        }
    }
}
