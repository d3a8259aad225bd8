//! What a pool is to be.

use dma_types::{Access, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Pool;
use super::layout::Shape;
use super::supply::Supply;
use crate::device::Device;
use crate::protocol::Error;

/// What a pool is to be: [`Device::pool`] begins it, [`of`](Self::of) or [`bytes`](Self::bytes) makes it.
#[derive(Clone, Copy, Debug)]
#[must_use = "it is not a pool yet"]
pub struct PoolBuilder<'a> {
    device: &'a Device,
    label: &'a str,
    access: Access,
    align: usize,
    boundary: Option<usize>,
    keep: usize,
}

impl Device {
    /// Begins a [`Pool`] of blocks for this device: Linux's `dma_pool_create`. The [label](Device#labels) is
    /// what reports call it.
    pub fn pool<'a>(&'a self, label: &'a str) -> PoolBuilder<'a> {
        let access = Access::ReadWrite;
        PoolBuilder { device: self, label, access, align: 1, boundary: None, keep: 0 }
    }
}

impl PoolBuilder<'_> {
    /// What the device may do with the blocks: [`Access::ReadWrite`] if nothing is said.
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// What the address of each block is a multiple of, a power of two. A type's own alignment is kept anyway.
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// What no block crosses a multiple of: a power of two, and not less than a block.
    pub fn boundary(self, boundary: usize) -> Self {
        Self { boundary: Some(boundary), ..self }
    }

    /// How many free blocks the pool keeps. Beyond them and some more it gives chunks back whose blocks are all free.
    pub fn keep(self, blocks: usize) -> Self {
        Self { keep: blocks, ..self }
    }

    /// A pool of values of a type. No memory is asked for before the first block.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`] for a type of no size, [`Error::BadAlignment`] for an alignment that is no power of two or a type
    /// that must be aligned to more than a page, [`Error::BadBoundary`] for a boundary that is no power of two or less than a
    /// block, [`Error::TooLarge`] for more than 1 GiB.
    #[track_caller]
    pub fn of<T: FromBytes + IntoBytes + Immutable>(self) -> Result<Pool<T>, Error> {
        if align_of::<T>() > PAGE_SIZE as usize {
            return Err(Error::BadAlignment);
        }
        // An alignment that means nothing stays so.
        let align = if self.align == 0 { 0 } else { self.align.max(align_of::<T>()) };
        Ok(Pool::new(self.supply(size_of::<T>(), align)?))
    }

    /// A pool of blocks of so many bytes, which may be anything. No memory is asked for before the first block.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    #[track_caller]
    pub fn bytes(self, bytes: usize) -> Result<Pool<[u8]>, Error> {
        Ok(Pool::new(self.supply(bytes, self.align)?))
    }

    fn supply(&self, bytes: usize, align: usize) -> Result<Supply, Error> {
        let shape = Shape::new(bytes, align, self.boundary)?;
        let terms = (self.access, self.device.highest_coherent_address());
        Ok(Supply::new(self.device.windows().clone(), self.label, shape, terms, self.keep))
    }
}
