//! What coherent memory is to be.

use dma_types::{Access, CacheType, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Coherent;
use crate::attributes::Attributes;
use crate::check::{self, Kind, Mark, Note};
use crate::copy;
use crate::device::Device;
use crate::protocol::Error;
use crate::protocol::derive;
use crate::window::{self, Block, BlockRequest};

/// What coherent memory is to be: [`Device::coherent`] begins one, and [`value`](Self::value), [`slice`](Self::slice) or
/// [`bytes`](Self::bytes) allocate it.
///
/// Small blocks share windows of memory that is mapped already, so that they cost no request to iommud and no page each;
/// none shares a page with another device's memory. A block lies at an I/O address that is a multiple of its length
/// rounded up to a power of two, so that it crosses no boundary that is as long; without an IOMMU of 4 MiB, if that is less.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is allocated yet"]
pub struct Builder<'a> {
    device: &'a Device,
    label: &'a str,
    access: Access,
    align: usize,
    attributes: Attributes,
    is_alone: bool,
}

impl<'a> Builder<'a> {
    #[inline]
    pub(crate) fn new(device: &'a Device, label: &'a str) -> Self {
        let attributes = Attributes::empty();
        Self { device, label, access: Access::ReadWrite, align: 1, attributes, is_alone: false }
    }

    /// What the device may do with it: both, unless this says less.
    #[inline]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// What its I/O address is a multiple of: a power of two. Its CPU address is one of the same up to 4096, which is all
    /// that a process's mappings are aligned to.
    ///
    /// Without an IOMMU memory is aligned as it lies, so that there it takes as much memory as its alignment is long:
    /// [`Error::NotContiguous`] if that is more than [`Device::max_mapping_size`].
    #[inline]
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// With attributes: Linux's `dma_alloc_attrs`.
    pub fn attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// In a buffer of its own, whatever its size: the device's access to it ends with it, reports name it, and its
    /// [`buffer`](Coherent::buffer) can be passed on.
    pub fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// Allocates one value of zeroes.
    ///
    /// # Errors
    ///
    /// As [`slice`](Self::slice).
    #[track_caller]
    #[inline]
    pub fn value<T: FromBytes + IntoBytes + Immutable>(self) -> Result<Coherent<T>, Error> {
        let block = self.block(size_of::<T>(), align_of::<T>())?;
        // SAFETY: it was allocated for one, and is zeroes, which are a `T`.
        Ok(unsafe { Coherent::from_block(block, size_of::<T>()) })
    }

    /// Allocates `len` values of zeroes.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`]; [`Error::ZeroSize`] for no values, or values of no size, and [`Error::BadAlignment`] for a
    /// type that must be aligned to more than a page or an alignment that is no power of two; [`Error::NotContiguous`]
    /// with [`FORCE_CONTIGUOUS`](Attributes::FORCE_CONTIGUOUS) for more than there ever is in one piece, and
    /// [`Error::NoCpuMapping`] with [`NO_CPU_MAPPING`](Attributes::NO_CPU_MAPPING), for which there is
    /// [`allocate_unmapped`](crate::buffer::Builder::allocate_unmapped) of [`Device::buffer`].
    #[track_caller]
    #[inline]
    pub fn slice<T: FromBytes + IntoBytes + Immutable>(
        self,
        len: usize,
    ) -> Result<Coherent<[T]>, Error> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Error::TooLarge)?;
        let block = self.block(bytes, align_of::<T>())?;
        // SAFETY: it was allocated for as many, and is zeroes, which are `T`s.
        Ok(unsafe { Coherent::from_block(block, bytes) })
    }

    /// Allocates `len` bytes of zeroes.
    ///
    /// # Errors
    ///
    /// As [`slice`](Self::slice).
    #[track_caller]
    #[inline]
    pub fn bytes(self, len: usize) -> Result<Coherent<[u8]>, Error> {
        self.slice(len)
    }

    /// Memory of zeroes, and by what the checker knows it.
    #[track_caller]
    #[inline]
    fn block(&self, bytes: usize, align: usize) -> Result<(Block, Mark), Error> {
        let Self { device, access, attributes, is_alone, .. } = *self;
        let kind = window::Kind { access, cache: CacheType::WriteBack };
        let both = align.max(self.align);
        if !is_alone
            && attributes.is_empty()
            && bytes > 0
            && align <= PAGE_SIZE as usize
            && self.align.is_power_of_two()
            && check::is_known_off()
            && let limit = device.highest_coherent_address()
            && let Some(block) =
                device.windows().alloc_coherent_ready(bytes.max(both), kind.index(), limit)
        {
            // SAFETY: it is the block's memory, and nobody else's yet.
            unsafe { copy::zero(block.as_ptr(), bytes) };
            return Ok((block, Mark::default()));
        }
        self.block_otherwise(bytes, align)
    }

    /// The same where none is ready in a window, the checker may be told, or it is refused.
    #[track_caller]
    #[cold]
    fn block_otherwise(&self, bytes: usize, align: usize) -> Result<(Block, Mark), Error> {
        let block = self.zeroes(bytes, align)?;
        let Self { device, label, access, .. } = *self;
        let (iova, bytes, access) = (Some(block.iova()), bytes as u64, Some(access));
        let (kind, space) = (Kind::Coherent, device.session().space());
        let mark = check::made(|| Note { kind, label, space, iova, bytes, access });
        Ok((block, mark))
    }

    fn zeroes(&self, bytes: usize, align: usize) -> Result<Block, Error> {
        let Self { device, label, access, attributes, .. } = *self;
        if attributes.contains(Attributes::NO_CPU_MAPPING) {
            return Err(Error::NoCpuMapping);
        }
        if align > PAGE_SIZE as usize {
            return Err(Error::BadAlignment);
        }
        // What is no power of two stays none, and is refused as that.
        let align =
            if self.align < align && self.align.is_power_of_two() { align } else { self.align };
        let limit = device.highest_coherent_address();
        let request = BlockRequest { bytes, align, access, limit, label };
        let cache = attributes.cache_type();
        let windows = device.windows();
        if attributes.contains(Attributes::FORCE_CONTIGUOUS) {
            return windows.alloc_coherent_alone(&request, derive::Kind::AllocateContiguous, cache);
        }
        if self.is_alone {
            return windows.alloc_coherent_alone(&request, derive::Kind::Allocate, cache);
        }
        let block = windows.alloc_coherent(&request, cache)?;
        if block.buffer().is_none() {
            // SAFETY: it is the block's memory, and nobody else's yet.
            unsafe { copy::zero(block.as_ptr(), bytes) };
        }
        Ok(block)
    }
}
