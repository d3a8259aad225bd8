//! A piece of a window.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use dma_types::{Access, Iova};

use super::Windows;
use crate::buffer::Buffer;
use crate::protocol::Error;
use crate::session::Session;

/// What a block is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRequest<'a> {
    /// Its length, not zero.
    pub(crate) bytes: usize,
    /// What its I/O address is a multiple of: a power of two. Its CPU address is a multiple of the same, up to 4096. A
    /// block whose length is a power of two lies at a multiple of it anyway, so that it crosses no larger power of two.
    pub(crate) align: usize,
    /// What the device may do with it.
    pub(crate) access: Access,
    /// Its highest I/O address.
    pub(crate) limit: Iova,
    /// What reports call it, if it becomes a buffer of its own.
    pub(crate) label: &'a str,
}

impl BlockRequest<'_> {
    /// Refuses what no block can be.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.bytes == 0 {
            return Err(Error::ZeroSize);
        }
        if self.align.is_power_of_two() { Ok(()) } else { Err(Error::BadAlignment) }
    }
}

/// A piece of a window: nobody else's until it is dropped, and mapped for the device all the time. One that is never
/// dropped is never given out again.
pub(crate) struct Block {
    start: NonNull<u8>,
    iova: Iova,
    bytes: usize,
    place: Place,
}

/// What a block is a piece of.
pub(super) enum Place {
    /// A window.
    Window { windows: Arc<Windows>, window: usize, unit: usize, order: u32 },
    /// The device's own memory.
    Declared { windows: Arc<Windows>, unit: usize, order: u32 },
    /// Nothing else. It is boxed so that the others are few words, which are moved about more often.
    Own(Box<Buffer>),
}

impl fmt::Debug for Block {
    /// Of the block alone, and not of all the windows that it holds on to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut block = f.debug_struct("Block");
        block.field("start", &self.start).field("iova", &self.iova).field("bytes", &self.bytes);
        block.finish_non_exhaustive()
    }
}

// SAFETY: the memory is a mapping of the process, tied to no thread, and the block's alone.
unsafe impl Send for Block {}

impl Block {
    pub(super) fn new(start: NonNull<u8>, iova: Iova, bytes: usize, place: Place) -> Self {
        Self { start, iova, bytes, place }
    }

    /// Where the device sees it.
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Where this process sees it: valid for reads and writes of its length while it lives, by volatile or atomic
    /// access or copies alone.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// How long it is: what was asked for.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The session of the device that it is of.
    pub(crate) fn session(&self) -> &Session {
        match &self.place {
            Place::Window { windows, .. } | Place::Declared { windows, .. } => windows.session(),
            Place::Own(buffer) => buffer.session(),
        }
    }

    /// Leaves it to the device: it is never given out again, and does not keep its windows. If it is a buffer of its own,
    /// the buffer.
    pub(super) fn leave(self) -> Option<Buffer> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used after its place has been moved out.
        match unsafe { ptr::read(&this.place) } {
            Place::Own(buffer) => Some(*buffer),
            Place::Window { .. } | Place::Declared { .. } => None,
        }
    }

    /// The buffer that it is all of, unless it shares one.
    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        match &self.place {
            Place::Own(buffer) => Some(buffer),
            Place::Window { .. } | Place::Declared { .. } => None,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.place {
            Place::Window { windows, window, unit, order } => {
                windows.give_back(*window, *unit, *order);
            }
            Place::Declared { windows, unit, order } => windows.give_back_declared(*unit, *order),
            Place::Own(_) => {}
        }
    }
}
