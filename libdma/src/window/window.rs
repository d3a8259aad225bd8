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
pub(crate) struct Kind {
    pub(crate) access: Access,
    pub(crate) cache: CacheType,
}

impl Kind {
    /// How many indices there can be: a power of two, so that none needs to be compared with it. There are nine kinds.
    pub(super) const COUNT: usize = 16;

    /// Which of them it is.
    #[inline]
    pub(crate) const fn index(self) -> KindIndex {
        let access = match self.access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        KindIndex(access * 3 + self.cache as u8)
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

/// Which of the kinds one is, by which blocks are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KindIndex(u8);

impl KindIndex {
    #[inline]
    pub(super) fn get(self) -> usize {
        usize::from(self.0) % Kind::COUNT
    }
}

/// A buffer that is given out in blocks.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) kind: Kind,
    pub(super) kind_index: KindIndex,
    buffer: Buffer,
    /// Where it starts and ends, for the device.
    iova: Iova,
    last: Iova,
    buddy: Buddy,
    /// How many blocks are taken.
    pub(super) blocks: usize,
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
        let last = Iova::new(iova.get() + (bytes as u64 - 1));
        let buddy = Buddy::new((bytes / UNIT).clamp(1, Buddy::LIMIT));
        Ok(Self { kind, kind_index: kind.index(), buffer, iova, last, buddy, blocks: 0 })
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.blocks == 0
    }

    /// Whether a device with this limit reaches all of it.
    #[inline]
    pub(super) fn is_below(&self, limit: Iova) -> bool {
        self.last <= limit
    }

    /// Its mapping, as iommud knows it.
    pub(super) fn mapped(&self) -> Mapped {
        let address = BusAddress::new(self.buffer.session().addresses(), self.iova);
        Mapped::new(address, self.buffer.len() as u64)
    }

    /// How many bytes are taken, with what each block is rounded up to.
    pub(super) fn used(&self) -> usize {
        self.bytes() - self.buddy.free_units() * UNIT
    }

    /// Takes a block of an order, in units.
    pub(super) fn alloc(&mut self, order: u32) -> Option<Found> {
        let unit = self.buddy.alloc(order)?;
        Some(self.give_out(unit))
    }

    /// The same if one is ready, in a few steps.
    #[inline]
    pub(super) fn alloc_ready(&mut self, order: u32) -> Option<Found> {
        let unit = self.buddy.alloc_ready(order)?;
        Some(self.give_out(unit))
    }

    #[inline]
    fn give_out(&mut self, unit: usize) -> Found {
        self.blocks += 1;
        let offset = unit * UNIT;
        // Inside the buffer, whose addresses do not run over.
        let iova = Iova::new(self.iova.get() + offset as u64);
        // SAFETY: the buddy allocator has no more units than the buffer has room for.
        let start = unsafe { self.buffer.as_ptr().add(offset) };
        Found { start, iova, unit }
    }

    /// Gives back what [`alloc`](Self::alloc) took.
    pub(super) fn free(&mut self, unit: usize, order: u32) {
        self.buddy.free(unit, order);
        self.blocks -= 1;
    }

    /// The same if it is to be kept ready, in a few steps; whether it was given back.
    #[inline]
    pub(super) fn free_ready(&mut self, unit: usize, order: u32) -> bool {
        let is_done = self.buddy.free_ready(unit, order);
        self.blocks -= usize::from(is_done);
        is_done
    }
}
