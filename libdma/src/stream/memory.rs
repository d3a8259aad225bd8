//! What is beneath a streaming buffer: a piece of a window, or pages of its own.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::Cell;
use core::ptr::NonNull;
use core::{fmt, mem};

use dma_types::{Access, Iova};

use super::{Terms, requests};
use crate::buffer::Buffer;
use crate::check::Mark;
use crate::copy;
use crate::protocol::Error;
use crate::resume::{Piece, Place};
use crate::session::Session;
use crate::window::Block;

/// What is beneath a streaming buffer.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A piece of a window, mapped all the time.
    Window(Block),
    /// Pages of its own, mapped while they are the device's.
    Pages(Box<Pages>),
}

/// Pages of a streaming buffer's own.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Ends before the buffer does.
    way: Way,
    buffer: Buffer,
}

/// The device's way to pages. If they are mapped for now, that ends with it.
struct Way {
    reach: Reach,
    /// Where the device sees them, or zero if it does not.
    iova: Iova,
    /// Whose device it is.
    session: Arc<Session>,
    /// Where the mapping is noted.
    place: Arc<Place>,
    bytes: u64,
}

/// How the device reaches pages.
#[derive(Debug)]
enum Reach {
    /// Not at all.
    Not,
    /// They were mapped when they were allocated, and stay so.
    Always,
    /// They are mapped for now, by a strict stream or another.
    Mapped { strict: bool },
    /// It reaches a copy of them. It is rare, and in a box so that the others are done with in a few steps.
    Through(Box<Through>),
}

/// A copy of pages.
#[derive(Debug)]
struct Through {
    block: Block,
    /// How long it is.
    bytes: usize,
    /// Whether what the device writes comes back when they are unmapped.
    brings_back: bool,
    /// Whether the CPU has its turn, so that the pages are newer than the copy.
    of_cpu: bool,
    /// Whether it has written in its turn.
    cpu_wrote: Cell<bool>,
}

impl Way {
    /// Has the device reach the pages so, and there, from now on.
    #[inline]
    fn set(&mut self, reach: Reach, iova: Iova) {
        self.iova = iova;
        match mem::replace(&mut self.reach, reach) {
            Reach::Through(copy) => drop(copy),
            // It has nothing to be dropped, and no call finds that out.
            other => mem::forget(other),
        }
    }

    /// Has the device not reach them any more.
    #[inline]
    fn set_out_of_reach(&mut self) {
        self.set(Reach::Not, Iova::default());
    }

    /// Takes the mapping back, if there is one. If it is a strict stream's, the device reaches the memory no more when this
    /// returns.
    #[inline]
    fn end(&mut self) -> Result<(), Error> {
        if let Reach::Mapped { strict } = self.reach {
            requests::unmap_one(&self.session, &self.place, (self.iova, self.bytes), strict)?;
            self.set_out_of_reach();
        }
        Ok(())
    }
}

impl Drop for Way {
    #[inline(never)]
    fn drop(&mut self) {
        // The buffer's end would unmap it too; told so, iommud need not wait for the end of the session where nothing
        // confines the device.
        let _ = self.end();
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reach.fmt(f)
    }
}

impl Memory {
    /// Where the CPU sees it.
    #[inline]
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        match self {
            Self::Window(block) => block.as_ptr(),
            Self::Pages(pages) => pages.buffer.as_ptr(),
        }
    }

    /// Where the device sees it, or zero if it does not.
    #[inline]
    pub(crate) fn iova(&self) -> Iova {
        match self {
            Self::Window(block) => block.iova(),
            Self::Pages(pages) => pages.iova(),
        }
    }

    /// The session of the device that it is for.
    pub(crate) fn session(&self) -> &Session {
        match self {
            Self::Window(block) => block.session(),
            Self::Pages(pages) => pages.buffer.session(),
        }
    }

    /// The pages, if it is not in a window, to be looked at.
    #[inline]
    pub(crate) fn own_pages(&self) -> Option<&Pages> {
        match self {
            Self::Window(_) => None,
            Self::Pages(pages) => Some(pages),
        }
    }

    /// The pages, if it is not in a window.
    #[inline]
    pub(crate) fn pages(&mut self) -> Option<&mut Pages> {
        match self {
            Self::Window(_) => None,
            Self::Pages(pages) => Some(pages),
        }
    }
}

impl Pages {
    pub(super) fn new(buffer: Buffer) -> Box<Self> {
        let (session, place) = (buffer.session().clone(), buffer.handle().place().clone());
        let (reach, iova, bytes) = (Reach::Not, Iova::default(), buffer.len() as u64);
        let way = Way { reach, iova, session, place, bytes };
        Box::new(Self { way, buffer })
    }

    /// Where the device sees them, or zero if it does not.
    #[inline]
    pub(super) fn iova(&self) -> Iova {
        self.way.iova
    }

    /// Whether the device has no way to them yet. What is mapped already as it should be, in one segment if it must be one
    /// (`single` bytes long), counts from now on.
    #[inline]
    pub(super) fn must_be_mapped(
        &mut self,
        terms: &Terms,
        access: Access,
        single: Option<u64>,
    ) -> bool {
        if !terms.strict {
            self.count_mapped(terms, access, single);
        }
        self.is_out_of_reach()
    }

    /// What is mapped already as it should be, counts from now on.
    fn count_mapped(&mut self, terms: &Terms, access: Access, single: Option<u64>) {
        if let (Reach::Not | Reach::Always, Some(iova)) = (&self.way.reach, self.buffer.iova()) {
            let last = iova.checked_add(self.buffer.len() as u64 - 1);
            let fits = last.is_some_and(|last| last <= terms.limit())
                && single.is_none_or(|bytes| terms.is_single(iova, bytes));
            let may = self.buffer.access().is_some_and(|mapped| access.is_within(mapped));
            let own = Arc::ptr_eq(self.buffer.session(), terms.session());
            match fits && may && own {
                true => self.way.set(Reach::Always, iova),
                false => self.way.set_out_of_reach(),
            }
        }
    }

    /// Whether the device has no way to them.
    #[inline]
    pub(super) fn is_out_of_reach(&self) -> bool {
        matches!(self.way.reach, Reach::Not)
    }

    /// What is to be asked of iommud, so that they are mapped.
    #[inline]
    pub(super) fn piece(&self) -> Piece {
        Piece { buffer: self.buffer.id(), offset: 0, bytes: self.way.bytes }
    }

    /// Where it is noted that they are mapped.
    #[inline]
    pub(super) fn place(&self) -> &Place {
        &self.way.place
    }

    /// They were mapped there on these terms.
    #[inline(always)]
    pub(super) fn set_mapped(&mut self, iova: Iova, terms: &Terms) {
        if !Arc::ptr_eq(&self.way.session, terms.session()) {
            self.way.session = terms.session().clone();
        }
        self.way.set(Reach::Mapped { strict: terms.strict }, iova);
    }

    /// The mapping to be taken back, if there is one: where it is, and its length.
    #[inline]
    pub(super) fn mapping(&self) -> Option<(Iova, u64)> {
        match self.way.reach {
            Reach::Mapped { .. } => Some((self.way.iova, self.way.bytes)),
            _ => None,
        }
    }

    /// Whether they are mapped on strict terms.
    #[inline]
    pub(super) fn is_strict(&self) -> bool {
        matches!(self.way.reach, Reach::Mapped { strict: true })
    }

    /// Their mapping was taken back; a block that they were copied through goes back to its window.
    #[inline]
    pub(super) fn set_unmapped(&mut self) {
        if !matches!(self.way.reach, Reach::Always) {
            self.way.set_out_of_reach();
        }
    }

    /// Takes their mapping back. If it is a strict stream's, the device reaches them no more when this returns (rule R2). A
    /// function of its own: who has memory in a window mostly keeps nothing for it.
    #[inline(never)]
    pub(crate) fn revoke(&mut self) -> Result<(), Error> {
        self.way.end()
    }

    /// The end of the device's turn with so many of their bytes, for good: as by [`revoke`](Self::revoke), with what it wrote.
    #[inline]
    pub(super) fn end(&mut self, bytes: usize) -> Result<(), Error> {
        self.way.end()?;
        self.bring_back(bytes);
        self.set_unmapped();
        Ok(())
    }

    /// By what the checker knows the buffer, if it was adopted.
    pub(super) fn mark(&self) -> &Mark {
        self.buffer.mark()
    }

    /// The buffer, when the device does not reach it any more.
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Has the device reach a copy of them.
    pub(super) fn go_through_window(
        &mut self,
        terms: &Terms,
        bytes: usize,
        access: Access,
    ) -> Result<(), Error> {
        let block = terms.block(bytes, access)?;
        let brings_back = access.may_write() && !terms.skip_cpu_sync();
        let (iova, of_cpu, cpu_wrote) = (block.iova(), false, Cell::new(false));
        let copy = Through { block, bytes, brings_back, of_cpu, cpu_wrote };
        self.way.set(Reach::Through(Box::new(copy)), iova);
        Ok(())
    }

    /// The CPU's turn with all of them. What the device wrote comes back, if it may write.
    pub(crate) fn sync_for_cpu(&mut self, bytes: usize, access: Access) {
        if access.may_write() {
            self.copy_to_cpu(0, bytes);
        }
        if let Reach::Through(copy) = &mut self.way.reach {
            copy.of_cpu = true;
        }
    }

    /// The CPU writes to them, or may.
    pub(super) fn cpu_writes(&self) {
        if let Reach::Through(copy) = &self.way.reach {
            copy.cpu_wrote.set(true);
        }
    }

    /// The device's turn again. What the device only writes is in the copy already, unless the CPU wrote.
    pub(crate) fn sync_for_device(&mut self, bytes: usize, access: Access) {
        if let Reach::Through(copy) = &mut self.way.reach {
            copy.of_cpu = false;
            if copy.cpu_wrote.take() || access.may_read() {
                self.copy_to_device(0, bytes);
            }
        }
    }

    /// The end of the device's turn for good: what it wrote comes back, if it is to and has not yet.
    #[inline]
    pub(super) fn bring_back(&self, bytes: usize) {
        if let Reach::Through(copy) = &self.way.reach
            && copy.brings_back
            && !copy.of_cpu
        {
            self.copy_to_cpu(0, bytes);
        }
    }

    /// Copies to where the device reads, if that is elsewhere.
    #[inline]
    pub(super) fn copy_to_device(&self, start: usize, bytes: usize) {
        if let Reach::Through(copy) = &self.way.reach {
            let Through { block, bytes: all, .. } = &**copy;
            debug_assert!(start + bytes <= *all);
            // SAFETY: the caller's range lies in the streaming buffer, whose length the block has and the pages have at
            // least; they are different memory.
            unsafe {
                copy::across(self.buffer.as_ptr().add(start), block.as_ptr().add(start), bytes)
            };
        }
    }

    /// Copies from where the device wrote, if that is elsewhere.
    pub(super) fn copy_to_cpu(&self, start: usize, bytes: usize) {
        if let Reach::Through(copy) = &self.way.reach {
            let Through { block, bytes: all, .. } = &**copy;
            debug_assert!(start + bytes <= *all);
            // SAFETY: as in `copy_to_device`.
            unsafe {
                copy::across(block.as_ptr().add(start), self.buffer.as_ptr().add(start), bytes)
            };
        }
    }
}
