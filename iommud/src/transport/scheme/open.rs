//! What the transport remembers of the handles that are open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iommu_service::HandleId;
use libdma::Error;

use super::folder::Folder;
use super::request::{Client, Shape};

/// The most handles that one user may have open, root excepted: whoever is root can do all that the daemon
/// could refuse.
pub const MOST_OF_A_USER: usize = 256;

/// How long a handle may stay unused after its client's process has ended: long enough for another process
/// to which it was passed to use it.
pub const GRACE: Duration = Duration::from_secs(10);

/// What is remembered of one handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its path from the root; a derived handle has that of the one it comes from.
    pub path: String,
    /// What kind of thing it is of.
    pub shape: Shape,
    /// Who asked for it.
    pub client: Client,
    /// Since when it has been given without having been used.
    pub unused_since: Option<Instant>,
}

impl Open {
    /// Whether it may be lost: nobody has used it, and who asked for it may be gone.
    fn may_be_lost(&self) -> bool {
        self.unused_since.is_some() && self.client.process.is_some()
    }

    /// Which folder it is.
    pub fn folder(&self) -> Option<Folder> {
        if self.shape == Shape::Folder { Folder::at(&self.path) } else { None }
    }
}

/// All handles that are open.
#[derive(Debug, Default)]
pub struct OpenHandles {
    open: BTreeMap<HandleId, Open>,
    /// How many of them may be lost.
    unused: usize,
}

impl OpenHandles {
    /// Refuses a user who has too many.
    ///
    /// # Errors
    ///
    /// [`Error::QuotaExceeded`].
    pub fn check_room(&self, client: Client) -> Result<(), Error> {
        if client.uid == 0 {
            return Ok(());
        }
        let held = self.open.values().filter(|open| open.client.uid == client.uid).count();
        if held < MOST_OF_A_USER { Ok(()) } else { Err(Error::QuotaExceeded) }
    }

    /// Remembers one.
    pub fn insert(&mut self, handle: HandleId, open: Open) {
        self.unused += usize::from(open.may_be_lost());
        let before = self.open.insert(handle, open);
        self.unused -= usize::from(before.is_some_and(|open| open.may_be_lost()));
    }

    /// The handle of a number that a client has used.
    ///
    /// # Errors
    ///
    /// [`Error::BadHandle`].
    pub fn used(&mut self, number: usize) -> Result<(HandleId, &Open), Error> {
        let handle = HandleId(number as u64);
        let open = self.open.get_mut(&handle).ok_or(Error::BadHandle)?;
        self.unused -= usize::from(open.may_be_lost());
        open.unused_since = None;
        Ok((handle, open))
    }

    /// Forgets one. `None` if it is not open.
    pub fn remove(&mut self, number: usize) -> Option<HandleId> {
        let handle = HandleId(number as u64);
        let open = self.open.remove(&handle)?;
        self.unused -= usize::from(open.may_be_lost());
        Some(handle)
    }

    /// Forgets those of a path that are not open any more.
    pub fn forget(&mut self, path: &str, is_open: impl Fn(HandleId) -> bool) {
        let Self { open, unused } = self;
        open.retain(|handle, open| {
            let stays = open.path != path || is_open(*handle);
            *unused -= usize::from(!stays && open.may_be_lost());
            stays
        });
    }

    /// Whether some were never used, and so may be [lost](Self::lost) once their client's process has ended.
    pub fn any_unused(&self) -> bool {
        self.unused > 0
    }

    /// The numbers of those that nobody has, as far as can be known: never used, and their client's process
    /// has ended.
    pub fn lost(&self, now: Instant, has_ended: impl Fn(u32) -> bool) -> Vec<usize> {
        let is_lost = |open: &Open| {
            let long = open.unused_since.is_some_and(|since| now.duration_since(since) >= GRACE);
            long && open.client.process.is_some_and(&has_ended)
        };
        let lost = self.open.iter().filter(|(_, open)| is_lost(open));
        lost.map(|(handle, _)| handle.0 as usize).collect()
    }
}
