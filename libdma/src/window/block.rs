//! A piece of a window.

use core::ptr::NonNull;

use dma_types::{Access, Iova};

use crate::buffer::Buffer;

/// What a block is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRequest<'a> {
    /// Its length, not zero.
    pub(crate) bytes: usize,
    /// What both of its addresses are a multiple of: a power of two. A block whose length is a power of two lies at a
    /// multiple of it anyway, so that it crosses no larger power of two.
    pub(crate) align: usize,
    /// What the device may do with it.
    pub(crate) access: Access,
    /// Its highest I/O address.
    pub(crate) limit: Iova,
    /// What reports call it, if it becomes a buffer of its own.
    pub(crate) label: &'a str,
}

/// A piece of a window: nobody else's until it is dropped, and mapped for the device all the time.
#[derive(Debug)]
pub(crate) struct Block {
    buffer: Buffer,
    iova: Iova,
    bytes: usize,
}

impl Block {
    pub(super) fn new(buffer: Buffer, iova: Iova, bytes: usize) -> Self {
        Self { buffer, iova, bytes }
    }

    /// Where the device sees it.
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Where this process sees it: valid for reads and writes of its length while it lives, by volatile or atomic
    /// access or copies alone.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.buffer.as_ptr()
    }

    /// How long it is: what was asked for.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}
