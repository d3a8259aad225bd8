//! What a list is made of.

use core::ops::Range;

use dma_types::Iova;

use crate::check::Mark;
use crate::direction::Direction;
use crate::protocol::Error;
use crate::stream::{Memory, Origin, Pages, StreamBuffer, batch};

/// A piece of a list.
pub(super) enum Piece<'a, D: Direction> {
    /// A part of a streaming buffer that the list was given.
    Given(StreamBuffer<D>, Range<usize>),
    /// A part of a streaming buffer that was lent to it.
    Lent(&'a mut StreamBuffer<D>, Range<usize>),
    /// A slice.
    Slice(Slice<'a>),
}

/// A slice of which the device reaches a copy.
pub(super) struct Slice<'a> {
    pub(super) origin: Origin<'a>,
    /// While the list is mapped: the memory of its copy and of those of the slices behind it that have none of their own,
    /// and how much there is.
    pub(super) memory: Option<(Memory, usize)>,
}

impl<D: Direction> Piece<'_, D> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Given(_, range) | Self::Lent(_, range) => range.len(),
            Self::Slice(slice) => slice.origin.bytes().len(),
        }
    }

    /// Where it is and how long, if it is memory of a window, whose address stays as it is.
    #[inline]
    pub(super) fn in_window(&self) -> Option<(Iova, usize)> {
        let (memory, range) = match self {
            Self::Given(buffer, range) => (buffer.memory(), range),
            Self::Lent(buffer, range) => (buffer.memory(), range),
            Self::Slice(_) => return None,
        };
        let Memory::Window(block) = memory else { return None };
        Some((Iova::new(block.iova().get().wrapping_add(range.start as u64)), range.len()))
    }

    /// Copies bytes out of it, from `offset` in it on, if there are any to copy.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        match self {
            // By the list's turn and not by their own.
            Self::Given(buffer, range) => buffer.extent().read(range.start + offset, out),
            Self::Lent(buffer, range) => buffer.extent().read(range.start + offset, out),
            Self::Slice(slice) => {
                let bytes = slice.origin.bytes().get(offset..offset + out.len());
                out.copy_from_slice(bytes.ok_or(Error::OutOfBuffer)?);
                Ok(())
            }
        }
    }

    /// Says whether the device has it, to what outlives the list if that is forgotten.
    pub(super) fn set_away(&mut self, is_away: bool) {
        if let Self::Lent(buffer, _) = self {
            buffer.set_away(is_away);
        }
    }

    /// By what the checker knows its memory, if it is a buffer's.
    pub(super) fn memory_mark(&self) -> Option<&Mark> {
        match self {
            Self::Given(buffer, _) => Some(buffer.memory_mark()),
            Self::Lent(buffer, _) => Some(buffer.memory_mark()),
            Self::Slice(_) => None,
        }
    }

    /// Its memory, if it has some.
    #[inline]
    fn memory(&self) -> Option<&Memory> {
        match self {
            Self::Given(buffer, _) => Some(buffer.memory()),
            Self::Lent(buffer, _) => Some(buffer.memory()),
            Self::Slice(slice) => slice.memory.as_ref().map(|(memory, _)| memory),
        }
    }

    /// What is to be mapped or unmapped for it, if it is not in a window.
    pub(super) fn pages(&mut self) -> Option<batch::Piece<'_>> {
        match self {
            Self::Given(buffer, _) => buffer.piece(false),
            Self::Lent(buffer, _) => buffer.piece(false),
            Self::Slice(slice) => {
                let (memory, bytes) = slice.memory.as_mut()?;
                Some(batch::Piece { pages: memory.pages()?, bytes: *bytes, single: false })
            }
        }
    }
}

impl<D: Direction> batch::Several for [Piece<'_, D>] {
    #[inline]
    fn pages(&self) -> impl Iterator<Item = &Pages> {
        self.iter().filter_map(|piece| piece.memory()?.own_pages())
    }

    #[inline]
    fn pages_mut(&mut self) -> impl Iterator<Item = &mut Pages> {
        self.iter_mut().filter_map(|piece| piece.pages().map(|it| it.pages))
    }
}

/// Where in the copies of a run of slices the next one is.
#[derive(Default)]
pub(super) struct Run<'m> {
    memory: Option<&'m Memory>,
    next: usize,
}

impl<'m> Run<'m> {
    /// The memory of this slice's copy, and where in it that starts.
    pub(super) fn step(
        &mut self,
        memory: &'m Option<(Memory, usize)>,
        bytes: usize,
    ) -> Option<(&'m Memory, usize)> {
        if let Some((memory, _)) = memory {
            *self = Self { memory: Some(memory), next: 0 };
        }
        let start = self.next;
        self.next += bytes;
        self.memory.map(|memory| (memory, start))
    }
}
