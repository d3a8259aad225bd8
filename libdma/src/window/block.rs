//! A piece of a window.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem::ManuallyDrop;
use core::num::NonZero;
use core::ptr::NonNull;

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
    #[inline]
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.bytes == 0 {
            return Err(Error::ZeroSize);
        }
        if self.align.is_power_of_two() { Ok(()) } else { Err(Error::BadAlignment) }
    }
}

/// A piece of a window: nobody else's until it is dropped, and mapped for the device all the time. One that is never
/// dropped is never given out again. Whoever asked for it knows how long it is.
///
/// It is four words, for each step of a streaming buffer moves one.
pub(crate) struct Block {
    start: NonNull<u8>,
    iova: Iova,
    place: ManuallyDrop<Place>,
}

/// What a block is a piece of.
pub(super) enum Place {
    /// Memory that it shares with others.
    Shared(Piece),
    /// Nothing else.
    Own(Box<Buffer>),
}

/// A piece of memory that is shared.
pub(super) struct Piece {
    pub(super) windows: Arc<Windows>,
    pub(super) at: Position,
}

impl Piece {
    /// Gives it back, and its share of the windows: a function of its own, which keeps nothing for what comes behind it.
    fn give_back(self) {
        if !self.windows.give_back_ready(self.at) {
            self.give_back_otherwise();
        }
    }

    /// The same where that takes more than a few steps.
    #[cold]
    fn give_back_otherwise(self) {
        self.windows.give_back(self.at);
    }
}

/// The number of one of a device's windows.
pub(super) type WindowNumber = u16;

/// Where a piece is, in one word, which compilers move in one step: the first unit, the window's number, and how many units
/// it is.
#[derive(Clone, Copy)]
pub(super) struct Position(NonZero<u64>);

impl Position {
    const WINDOW_SHIFT: u32 = u32::BITS;
    const ORDER_SHIFT: u32 = Self::WINDOW_SHIFT + WindowNumber::BITS;
    /// The number that no window has: of what is a piece of the device's own memory.
    const DECLARED: WindowNumber = WindowNumber::MAX;
    /// In all of them, so that there is another word for what is no piece.
    const ALWAYS: NonZero<u64> = NonZero::new(1 << (u64::BITS - 1)).unwrap();

    /// 2 to the power of `order` units of a window.
    #[inline]
    pub(super) fn in_window(window: WindowNumber, unit: usize, order: u32) -> Self {
        let window = u64::from(window) << Self::WINDOW_SHIFT;
        Self(Self::ALWAYS | window | u64::from(order) << Self::ORDER_SHIFT | unit as u64)
    }

    /// The same of the device's own memory.
    pub(super) fn declared(unit: usize, order: u32) -> Self {
        Self::in_window(Self::DECLARED, unit, order)
    }

    #[inline]
    pub(super) fn unit(self) -> usize {
        self.0.get() as u32 as usize
    }

    #[inline]
    pub(super) fn window(self) -> WindowNumber {
        (self.0.get() >> Self::WINDOW_SHIFT) as WindowNumber
    }

    #[inline]
    pub(super) fn order(self) -> u32 {
        u32::from((self.0.get() >> Self::ORDER_SHIFT) as u8)
    }

    #[inline]
    pub(super) fn is_declared(self) -> bool {
        self.window() == Self::DECLARED
    }
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Block>() == 32);

impl fmt::Debug for Block {
    /// Of the block alone, and not of all the windows that it holds on to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut block = f.debug_struct("Block");
        block.field("start", &self.start).field("iova", &self.iova);
        block.finish_non_exhaustive()
    }
}

// SAFETY: the memory is a mapping of the process, tied to no thread, and the block's alone.
unsafe impl Send for Block {}

impl Block {
    #[inline]
    pub(super) fn new(start: NonNull<u8>, iova: Iova, place: Place) -> Self {
        Self { start, iova, place: ManuallyDrop::new(place) }
    }

    /// Where the device sees it.
    #[inline]
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Where this process sees it: valid for reads and writes of its length while it lives, by volatile or atomic
    /// access or copies alone.
    #[inline]
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The session of the device that it is of.
    pub(crate) fn session(&self) -> &Session {
        match &*self.place {
            Place::Shared(piece) => piece.windows.session(),
            Place::Own(buffer) => buffer.session(),
        }
    }

    /// Leaves it to the device: it is never given out again, and does not keep its windows. If it is a buffer of its own,
    /// the buffer.
    pub(super) fn leave(self) -> Option<Buffer> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used after its place has been moved out.
        match unsafe { ManuallyDrop::take(&mut this.place) } {
            Place::Own(buffer) => Some(*buffer),
            Place::Shared(_) => None,
        }
    }

    /// The buffer that it is all of, unless it shares one.
    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        match &*self.place {
            Place::Own(buffer) => Some(buffer),
            Place::Shared(_) => None,
        }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it is dropped, so that nobody uses its place again.
        match unsafe { ManuallyDrop::take(&mut self.place) } {
            Place::Shared(piece) => piece.give_back(),
            Place::Own(buffer) => drop(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Buddy;

    #[test]
    fn a_position_keeps_what_it_is_made_of() {
        let (last, top) = (Buddy::LIMIT - 1, Buddy::LIMIT.ilog2());
        for (window, unit, order) in [(0, 0, 0), (WindowNumber::MAX - 1, last, 0), (7, 0, top)] {
            let at = Position::in_window(window, unit, order);
            assert_eq!((at.window(), at.unit(), at.order()), (window, unit, order));
            assert!(!at.is_declared());
        }
        let at = Position::declared(last, top);
        assert_eq!((at.unit(), at.order(), at.is_declared()), (last, top, true));
    }
}
