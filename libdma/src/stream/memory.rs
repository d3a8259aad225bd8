//! What is beneath a streaming buffer: a piece of a window, or pages of its own.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::Cell;
use core::ptr::NonNull;

use dma_types::{Access, Iova};

use super::Terms;
use crate::buffer::Buffer;
use crate::check::Mark;
use crate::copy;
use crate::mapping::{MapRequest, Mapped};
use crate::protocol::Error;
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
    reach: Reach,
    buffer: Buffer,
}

/// How the device reaches them.
#[derive(Debug)]
enum Reach {
    /// Not at all.
    Not,
    /// They were mapped when they were allocated, and stay so.
    Always,
    /// They are mapped for now.
    Mapped(Held),
    /// It reaches a copy of them.
    Through(Through),
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

/// A mapping that ends with this.
#[derive(Debug)]
struct Held {
    mapped: Mapped,
    session: Arc<Session>,
    /// Whether it is a strict stream's.
    strict: bool,
    over: bool,
}

impl Held {
    /// Takes the mapping back. If it is a strict stream's, the device reaches the memory no more when this returns.
    fn end(&mut self) -> Result<(), Error> {
        match self.strict {
            true => self.session.unmap_strictly(&[self.mapped])?,
            false => self.session.unmap(&[self.mapped])?,
        }
        self.over = true;
        Ok(())
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
        Box::new(Self { buffer, reach: Reach::Not })
    }

    /// Where the device sees them, or zero if it does not.
    pub(super) fn iova(&self) -> Iova {
        match &self.reach {
            Reach::Not => Iova::default(),
            Reach::Always => self.buffer.iova().unwrap_or_default(),
            Reach::Mapped(held) => held.mapped.iova(),
            Reach::Through(copy) => copy.block.iova(),
        }
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
        if let (Reach::Not | Reach::Always, false, Some(iova)) =
            (&self.reach, terms.strict, self.buffer.iova())
        {
            let last = iova.checked_add(self.buffer.len() as u64 - 1);
            let fits = last.is_some_and(|last| last <= terms.limit())
                && single.is_none_or(|bytes| terms.is_single(iova, bytes));
            let may = self.buffer.access().is_some_and(|mapped| access.is_within(mapped));
            let own = Arc::ptr_eq(self.buffer.session(), terms.session());
            self.reach = if fits && may && own { Reach::Always } else { Reach::Not };
        }
        matches!(self.reach, Reach::Not)
    }

    /// What is to be asked of iommud, so that they are mapped.
    #[inline]
    pub(super) fn request(&self, access: Access) -> MapRequest<'_> {
        MapRequest { buffer: &self.buffer, offset: 0, bytes: self.buffer.len() as u64, access }
    }

    /// They were mapped there on these terms.
    #[inline]
    pub(super) fn set_mapped(&mut self, mapped: Mapped, terms: &Terms) {
        let session = self.buffer.session().clone();
        self.reach = Reach::Mapped(Held { mapped, session, strict: terms.strict, over: false });
    }

    /// The mapping to be taken back, if there is one.
    #[inline]
    pub(super) fn mapping(&self) -> Option<&Mapped> {
        match &self.reach {
            Reach::Mapped(held) => Some(&held.mapped),
            _ => None,
        }
    }

    /// Whether they are mapped on strict terms.
    #[inline]
    pub(super) fn is_strict(&self) -> bool {
        matches!(&self.reach, Reach::Mapped(held) if held.strict)
    }

    /// Their mapping was taken back; a block that they were copied through goes back to its window.
    #[inline]
    pub(super) fn set_unmapped(&mut self) {
        if let Reach::Mapped(held) = &mut self.reach {
            held.over = true;
        }
        if !matches!(self.reach, Reach::Always) {
            self.reach = Reach::Not;
        }
    }

    /// Takes their mapping back. If it is a strict stream's, the device reaches them no more when this returns (rule R2).
    pub(crate) fn revoke(&mut self) -> Result<(), Error> {
        if let Reach::Mapped(held) = &mut self.reach {
            held.end()?;
            self.set_unmapped();
        }
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
        self.reach = Reach::Through(Through {
            block,
            bytes,
            brings_back,
            of_cpu: false,
            cpu_wrote: Cell::new(false),
        });
        Ok(())
    }

    /// The CPU's turn with all of them. What the device wrote comes back, if it may write.
    pub(crate) fn sync_for_cpu(&mut self, bytes: usize, access: Access) {
        if access.may_write() {
            self.copy_to_cpu(0, bytes);
        }
        if let Reach::Through(copy) = &mut self.reach {
            copy.of_cpu = true;
        }
    }

    /// The CPU writes to them, or may.
    pub(super) fn cpu_writes(&self) {
        if let Reach::Through(copy) = &self.reach {
            copy.cpu_wrote.set(true);
        }
    }

    /// The device's turn again. What the device only writes is in the copy already, unless the CPU wrote.
    pub(crate) fn sync_for_device(&mut self, bytes: usize, access: Access) {
        if let Reach::Through(copy) = &mut self.reach {
            copy.of_cpu = false;
            if copy.cpu_wrote.take() || access.may_read() {
                self.copy_to_device(0, bytes);
            }
        }
    }

    /// The end of the device's turn for good: what it wrote comes back, if it is to and has not yet.
    #[inline]
    pub(super) fn bring_back(&self, bytes: usize) {
        if matches!(&self.reach, Reach::Through(Through { brings_back: true, of_cpu: false, .. })) {
            self.copy_to_cpu(0, bytes);
        }
    }

    /// Copies to where the device reads, if that is elsewhere.
    #[inline]
    pub(super) fn copy_to_device(&self, start: usize, bytes: usize) {
        if let Reach::Through(Through { block, bytes: all, .. }) = &self.reach {
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
        if let Reach::Through(Through { block, bytes: all, .. }) = &self.reach {
            debug_assert!(start + bytes <= *all);
            // SAFETY: as in `copy_to_device`.
            unsafe {
                copy::across(block.as_ptr().add(start), self.buffer.as_ptr().add(start), bytes)
            };
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.over {
            // The buffer's end would unmap it too; told so, iommud need not wait for the end of the session where nothing
            // confines the device.
            let _ = self.end();
        }
    }
}
