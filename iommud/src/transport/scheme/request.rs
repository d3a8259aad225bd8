//! What clients want and get, apart from how the kernel says it.

use iommu_engine::platform::RunId;
use libdma::Error;

use super::folder::{Entry, Folder};

/// Who makes a request, as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The user.
    pub uid: u32,
    /// The process: no authority, but whoever is asked for a handle may be gone before it is given. `None`
    /// where the kernel does not say.
    pub process: Option<u32>,
}

/// A request. Handles are numbers as the kernel knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Open a path.
    Open {
        /// From this folder.
        folder: usize,
        /// The path.
        path: String,
        /// Only if it is a folder.
        only_folder: bool,
    },
    /// Make a new handle, as these bytes say.
    Derive {
        /// From this one.
        handle: usize,
        /// The protocol's bytes.
        bytes: Vec<u8>,
    },
    /// Make a call.
    Call {
        /// On this handle.
        handle: usize,
        /// The opcode.
        opcode: u64,
        /// Its payload, which the answer overwrites.
        payload: Vec<u8>,
    },
    /// Read a text.
    Read {
        /// Which.
        handle: usize,
        /// From here on.
        offset: u64,
        /// This much at the most.
        bytes: usize,
    },
    /// Share a buffer's memory.
    Map {
        /// Which.
        handle: usize,
        /// What of it, and how.
        mapping: MapRequest,
    },
    /// What kind of thing it is, and how long.
    Stat(usize),
    /// How long it is.
    Length(usize),
    /// Where it is.
    Path(usize),
    /// What is in a folder.
    List {
        /// Which.
        handle: usize,
        /// From this entry on.
        from: u64,
    },
    /// Be told when it has something to be read.
    Watch {
        /// Which.
        handle: usize,
        /// Or not to be told any more.
        wanted: bool,
    },
    /// Nothing that would have to be done, but the handle must be one: flags were set, or a mapping is gone. Of mappings the
    /// service hears when the last is gone, with the handle's end.
    Check(usize),
}

/// What an `mmap` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Where in the buffer.
    pub offset: u64,
    /// How much. The kernel rounds it up to pages, as buffers are.
    pub bytes: u64,
    /// The memory itself, and not a copy that is made when it is written to.
    pub shared: bool,
    /// To be written.
    pub write: bool,
    /// To be run as code.
    pub execute: bool,
}

impl MapRequest {
    /// Refuses what no buffer is mapped as.
    ///
    /// # Errors
    ///
    /// [`Error::NotShared`]: what the client wrote would not reach the device, and the kernel would take the
    /// daemon's own right to write away. [`Error::NotPermitted`] for code: no right is to run it.
    pub fn check(&self) -> Result<(), Error> {
        if !self.shared {
            Err(Error::NotShared)
        } else if self.execute {
            Err(Error::NotPermitted)
        } else {
            Ok(())
        }
    }
}

/// What a request led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A new handle.
    Handle {
        /// Its number.
        number: usize,
        /// Whether the kernel shall count where its reader is.
        positioned: bool,
    },
    /// Bytes for the memory that came with the request.
    Bytes(Vec<u8>),
    /// A length.
    Length(u64),
    /// Memory to be shared: this run's, from the offset on.
    Memory {
        /// The run.
        run: RunId,
        /// The offset, which lies in it together with what was asked for.
        offset: u64,
    },
    /// What kind of thing it is, and how long.
    Shape(Shape, u64),
    /// A folder's entries.
    Entries {
        /// Which folder.
        folder: Folder,
        /// The first of them that is wanted.
        from: u64,
    },
    /// Whether there is something to be read now.
    Readable(bool),
    /// It is well.
    Done,
}

impl Reply {
    /// The entries that are wanted, each with the number by which to go on behind it.
    pub fn entries(folder: Folder, from: u64) -> impl Iterator<Item = (u64, Entry)> {
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        folder.entries().enumerate().skip(skip).map(|(at, entry)| (at as u64 + 1, entry))
    }
}

/// Kinds of things, as `stat` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A folder.
    Folder,
    /// A text.
    Text,
    /// A device or a buffer: nothing that could be read.
    Object,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_memory_that_is_not_code_is_mapped() {
        let good = MapRequest { offset: 0, bytes: 1, shared: true, write: true, execute: false };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(MapRequest { shared: false, ..good }.check(), Err(Error::NotShared));
        assert_eq!(MapRequest { execute: true, ..good }.check(), Err(Error::NotPermitted));
    }

    #[test]
    fn a_listing_goes_on_where_it_was_left() {
        let all: Vec<_> = Reply::entries(Folder::Root, 0).collect();
        let (after_two, _) = all[1];
        let rest: Vec<_> = Reply::entries(Folder::Root, after_two).collect();
        assert_eq!(rest, all[2..]);
        assert_eq!(Reply::entries(Folder::Root, all.len() as u64).count(), 0);
        assert_eq!(Reply::entries(Folder::Root, u64::MAX).count(), 0);
    }
}
