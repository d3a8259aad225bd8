//! A buffer that is given out in blocks.

use core::ptr::NonNull;

use dma_types::{Access, CacheType, Iova};

use super::Buddy;
use crate::buffer::Buffer;
use crate::io_address::BusAddress;
use crate::mapping::Mapped;
use crate::protocol::Error;

/// What blocks start at a multiple of and are rounded up to, at least: a line of the CPU's cache, so that what a device
/// writes shares none with what the CPU does.
pub(super) const UNIT: usize = 64;

/// What kind of memory: blocks of one kind share windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) access: Access,
    pub(super) cache: CacheType,
}

impl Kind {
    /// How many there are.
    pub(super) const COUNT: usize = 9;

    /// Which of them it is.
    pub(super) const fn index(self) -> usize {
        let access = match self.access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        access * 3 + self.cache as usize
    }

    /// What reports call its windows.
    pub(super) const fn label(self) -> &'static str {
        match self.cache {
            CacheType::WriteBack => "window",
            CacheType::WriteCombining => "window, write-combining",
            CacheType::Uncached => "window, uncached",
        }
    }
}

/// A buffer that is given out in blocks.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) kind: Kind,
    buffer: Buffer,
    iova: Iova,
    buddy: Buddy,
    /// How many blocks are taken.
    pub(super) blocks: usize,
    /// How many bytes are in them.
    pub(super) used: usize,
}

/// Where a block is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) start: NonNull<u8>,
    pub(super) iova: Iova,
    pub(super) unit: usize,
}

impl Window {
    /// A window of this buffer, whose length is a power of two that its I/O address is a multiple of.
    pub(super) fn new(kind: Kind, buffer: Buffer) -> Result<Self, Error> {
        let iova = buffer.iova().ok_or(Error::BadValue)?;
        let bytes = buffer.len();
        if !bytes.is_power_of_two() || !iova.get().is_multiple_of(bytes as u64) {
            return Err(Error::BadValue);
        }
        let buddy = Buddy::new((bytes / UNIT).clamp(1, Buddy::LIMIT));
        Ok(Self { kind, buffer, iova, buddy, blocks: 0, used: 0 })
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Its last I/O address.
    fn last(&self) -> u64 {
        self.iova.get() + (self.buffer.len() as u64 - 1)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.blocks == 0
    }

    /// Whether a device with this limit reaches all of it.
    pub(super) fn is_below(&self, limit: Iova) -> bool {
        self.last() <= limit.get()
    }

    /// Its mapping, as iommud knows it.
    pub(super) fn mapped(&self) -> Mapped {
        let address = BusAddress::new(self.buffer.session().addresses(), self.iova);
        Mapped::new(address, self.buffer.len() as u64)
    }

    /// Takes a block of an order, in units.
    pub(super) fn alloc(&mut self, order: u32) -> Option<Found> {
        let unit = self.buddy.alloc(order)?;
        self.blocks += 1;
        self.used += UNIT << order;
        let offset = unit * UNIT;
        // Inside the buffer, whose addresses do not run over.
        let iova = Iova::new(self.iova.get() + offset as u64);
        // SAFETY: the buddy allocator has no more units than the buffer has room for.
        let start = unsafe { self.buffer.as_ptr().add(offset) };
        Some(Found { start, iova, unit })
    }

    /// Gives back what [`alloc`](Self::alloc) took.
    pub(super) fn free(&mut self, unit: usize, order: u32) {
        self.buddy.free(unit, order);
        self.blocks -= 1;
        self.used -= UNIT << order;
    }
}
