//! Which blocks of a pool there are, and which are free. Nothing of it lies in memory that the device sees.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::iter;
use core::ptr::NonNull;

use dma_types::Iova;

use super::NotTaken;
use super::layout::Layout;

/// A block, by where it is noted. Who has one has the block: there is one at a time. It is one word, for every block that
/// is given out or back moves one.
#[derive(Debug)]
pub(super) struct Slot(NonNull<Note>);

// SAFETY: what of the note can change is looked at by who has the `Slots` alone; the memory is not tied to a thread.
unsafe impl Send for Slot {}

/// Where a block is. It stays as long as its chunk does.
#[derive(Debug)]
struct Note {
    memory: NonNull<u8>,
    iova: Iova,
    /// The next that is free, while this one is.
    next: Cell<Option<NonNull<Self>>>,
    /// Whether it was left to the device.
    is_left: Cell<bool>,
}

impl Slot {
    /// Where this process sees the block.
    #[inline]
    pub(super) fn memory(&self) -> NonNull<u8> {
        self.note().memory
    }

    /// Where the device sees it.
    #[inline]
    pub(super) fn iova(&self) -> Iova {
        self.note().iova
    }

    #[inline]
    fn note(&self) -> &Note {
        // SAFETY: a chunk with a block that is somebody's is not given up, nor are `Slots` ended before all is given back.
        unsafe { self.0.as_ref() }
    }
}

/// The notes of a chunk's blocks, which others point to while this is moved.
#[derive(Debug)]
struct Notes(NonNull<[Note]>);

impl Notes {
    fn new(notes: Vec<Note>) -> Self {
        Self(NonNull::from(Box::leak(notes.into_boxed_slice())))
    }

    fn all(&self) -> &[Note] {
        // SAFETY: they were leaked when this was made, and nobody has them mutably.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // SAFETY: they were leaked when this was made. No free block is among them, and none that is somebody's.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A piece of memory with blocks in it.
#[derive(Debug)]
struct Chunk<Memory> {
    /// Keeps the memory.
    memory: Memory,
    iova: Iova,
    layout: Layout,
    notes: Notes,
}

/// Which blocks there are, and which are free. `Memory` keeps a chunk's memory.
#[derive(Debug)]
pub(super) struct Slots<Memory> {
    /// The last that was given back is the first to be given out: it is in the CPU's cache.
    free: Option<NonNull<Note>>,
    /// How many blocks there are.
    blocks: usize,
    /// How many of them are given out, those that were left to the device included; the most at once; and how many those are
    /// that were left.
    in_use: usize,
    most_in_use: usize,
    left: usize,
    given_out: u64,
    /// With fewer in use it is time to see whether chunks are idle.
    trim_below: usize,
    /// By their numbers.
    chunks: Vec<Option<Chunk<Memory>>>,
    /// By their I/O addresses, which do not overlap.
    order: Vec<(Iova, u32)>,
    /// How many free blocks stay when chunks are given back.
    keep: usize,
}

// SAFETY: the notes are its own, or behind a `Slot`; what it keeps says for itself whether it may move to another thread.
unsafe impl<Memory: Send> Send for Slots<Memory> {}

/// How much there is, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) blocks: usize,
    pub(super) in_use: usize,
    pub(super) most_in_use: usize,
    pub(super) given_out: u64,
    pub(super) chunks: usize,
}

impl<Memory> Slots<Memory> {
    /// No blocks yet.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            free: None,
            blocks: 0,
            in_use: 0,
            most_in_use: 0,
            left: 0,
            given_out: 0,
            trim_below: 0,
            chunks: Vec::new(),
            order: Vec::new(),
            keep,
        }
    }

    /// Gives a block out, if one is free.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Slot> {
        let slot = Slot(self.free?);
        self.free = slot.note().next.get();
        self.in_use += 1;
        if self.in_use > self.most_in_use {
            self.most_in_use = self.in_use;
        }
        self.given_out += 1;
        Some(slot)
    }

    /// Takes a block back if that takes a few steps: it is not time to [`trim`](Self::trim). The block, if it is.
    #[inline]
    pub(super) fn push_few(&mut self, slot: Slot) -> Option<Slot> {
        if self.in_use <= self.trim_below {
            return Some(slot);
        }
        self.push(slot);
        None
    }

    /// Takes a block back. Whether it is time to [`trim`](Self::trim).
    #[inline]
    pub(super) fn push(&mut self, slot: Slot) -> bool {
        slot.note().next.set(self.free);
        self.free = Some(slot.0);
        self.in_use -= 1;
        self.in_use < self.trim_below
    }

    /// Has no block be taken back any more in a few steps.
    pub(super) fn push_no_few(&mut self) {
        self.trim_below = usize::MAX;
    }

    /// How many blocks are given out, and not left to the device.
    pub(super) fn held(&self) -> usize {
        self.in_use - self.left
    }

    /// Adds a chunk of blocks; or gives its memory back, if another chunk has some of its I/O addresses, by which blocks
    /// are known. The numbers by which a device knows memory of its own may be an I/O address's too.
    ///
    /// # Safety
    ///
    /// The memory from `start` on is as long as the layout needs, and valid while `memory` lives; the device
    /// sees it from `iova` on. No other chunk has any of it.
    pub(super) unsafe fn add(
        &mut self,
        memory: Memory,
        start: NonNull<u8>,
        iova: Iova,
        layout: Layout,
    ) -> Result<(), Memory> {
        let blocks = layout.blocks();
        let at = self.order.partition_point(|&(other, _)| other < iova);
        let ends_before = |&(start, number): &(Iova, u32), end: Iova| {
            let chunk = self.chunks.get(number as usize).and_then(Option::as_ref);
            chunk.is_none_or(|chunk| start.get() + chunk.layout.bytes() as u64 <= end.get())
        };
        let end = iova.get() + layout.bytes() as u64;
        let is_before = self.order.get(at).is_none_or(|&(next, _)| end <= next.get());
        let is_behind = self.order[..at].last().is_none_or(|last| ends_before(last, iova));
        if !is_before || !is_behind {
            return Err(memory);
        }
        let number = self.chunks.iter().position(Option::is_none).unwrap_or(self.chunks.len());
        let note = |index| {
            let offset = layout.offset_of(index);
            // SAFETY: the layout lies in the chunk whole.
            let memory = unsafe { start.add(offset) };
            let iova = Iova::new(iova.get() + offset as u64);
            Note { memory, iova, next: Cell::new(None), is_left: Cell::new(false) }
        };
        let notes = Notes::new((0..blocks).map(note).collect());
        // So that the first comes first.
        for note in notes.all().iter().rev() {
            note.next.set(self.free);
            self.free = Some(NonNull::from(note));
        }
        let chunk = Some(Chunk { memory, iova, layout, notes });
        match self.chunks.get_mut(number) {
            Some(place) => *place = chunk,
            None => self.chunks.push(chunk),
        }
        self.order.insert(at, (iova, number as u32));
        self.blocks += blocks;
        self.trim_at(self.trim_from(0).max(self.blocks - self.in_use + 1));
        Ok(())
    }

    /// Leaves a block to the device: it is known by its address alone.
    pub(super) fn leave(&mut self, slot: Slot) -> Iova {
        slot.note().is_left.set(true);
        self.left += 1;
        slot.iova()
    }

    /// Takes a block that was left to the device from it.
    pub(super) fn take(&mut self, iova: Iova) -> Result<Slot, NotTaken> {
        let note = self.block_at(iova).ok_or(NotTaken::NoBlock)?;
        if note.is_left.replace(false) {
            let slot = Slot(NonNull::from(note));
            self.left -= 1;
            return Ok(slot);
        }
        let is_free = self.free().any(|free| free.iova == iova);
        Err(if is_free { NotTaken::Free } else { NotTaken::Held })
    }

    /// Those that are free, the next to be given out first.
    fn free(&self) -> impl Iterator<Item = &Note> {
        // SAFETY: what is free is noted in a chunk that there is.
        let at = |note: NonNull<Note>| unsafe { note.as_ref() };
        iter::successors(self.free.map(at), move |note| note.next.get().map(at))
    }

    /// Gives idle chunks up, as long as `keep` free blocks stay: their memory, and how long it is.
    pub(super) fn trim(&mut self, keep: usize) -> Vec<(Memory, usize)> {
        let mut free_of = alloc::vec![0; self.chunks.len()];
        let chunk_of = |note: &Note| chunk_of(&self.order, note.iova).map(|(_, it)| it as usize);
        for chunk in self.free().filter_map(chunk_of) {
            if let Some(free) = free_of.get_mut(chunk) {
                *free += 1;
            }
        }
        let mut free = self.blocks - self.in_use;
        for (chunk, idle) in self.chunks.iter().zip(&mut free_of) {
            let blocks = chunk.as_ref().map_or(0, |chunk| chunk.layout.blocks());
            let is_idle = blocks > 0 && *idle == blocks && free - blocks >= keep;
            *idle = usize::from(is_idle);
            free -= if is_idle { blocks } else { 0 };
        }
        let stays = |chunk: usize| free_of.get(chunk) == Some(&0);
        let staying = self.free().filter(|note| chunk_of(note).is_some_and(stays));
        let staying: Vec<_> = staying.map(NonNull::from).collect();
        let mut given_up = Vec::new();
        for (number, place) in self.chunks.iter_mut().enumerate() {
            if !stays(number)
                && let Some(chunk) = place.take()
            {
                self.blocks -= chunk.layout.blocks();
                given_up.push((chunk.memory, chunk.layout.bytes()));
            }
        }
        self.order.retain(|&(_, chunk)| stays(chunk as usize));
        self.free = None;
        for note in staying.into_iter().rev() {
            // SAFETY: its chunk is one of those that stay.
            unsafe { note.as_ref() }.next.set(self.free);
            self.free = Some(note);
        }
        self.trim_at(self.trim_from(free));
        given_up
    }

    /// As [`trim`](Self::trim), down to what the pool is to keep.
    pub(super) fn trim_to_keep(&mut self) -> Vec<(Memory, usize)> {
        self.trim(self.keep)
    }

    /// With how many free blocks to trim next, if that had left so many: so many more that the work is worth it, and
    /// no chunk is given up only to be asked for again.
    fn trim_from(&self, left: usize) -> usize {
        let average = self.blocks.div_ceil(self.order.len().max(1));
        (self.keep + 2 * average).max(left + left / 2 + average)
    }

    /// Has it be time to trim with so many free blocks.
    fn trim_at(&mut self, free: usize) {
        self.trim_below = (self.blocks + 1).saturating_sub(free);
    }

    /// How much there is.
    pub(super) fn count(&self) -> Count {
        let Self { blocks, in_use, most_in_use, given_out, .. } = *self;
        Count { blocks, in_use, most_in_use, given_out, chunks: self.order.len() }
    }

    /// Whether this is the address of something in a chunk.
    pub(super) fn contains(&self, iova: Iova) -> bool {
        self.chunks.iter().flatten().any(|chunk| {
            let offset = iova.get().wrapping_sub(chunk.iova.get());
            offset < chunk.layout.bytes() as u64
        })
    }

    /// Ends it: the memory of each chunk, and whether any block of it is left to the device.
    pub(super) fn into_memory(self) -> impl Iterator<Item = (Memory, bool)> {
        self.chunks.into_iter().flatten().map(|chunk| {
            let has_left = chunk.notes.all().iter().any(|note| note.is_left.get());
            (chunk.memory, has_left)
        })
    }

    /// The block that starts there, if one does.
    fn block_at(&self, iova: Iova) -> Option<&Note> {
        let (start, number) = chunk_of(&self.order, iova)?;
        let chunk = self.chunks.get(number as usize)?.as_ref()?;
        let offset = usize::try_from(iova.get() - start.get()).ok()?;
        chunk.notes.all().get(chunk.layout.index_of(offset)?)
    }
}

/// The last chunk that starts at this address or before, which is the only one that can have it: where it starts, and
/// its number.
fn chunk_of(order: &[(Iova, u32)], iova: Iova) -> Option<(Iova, u32)> {
    let after = order.partition_point(|&(start, _)| start <= iova);
    order[..after].last().copied()
}

#[cfg(test)]
mod tests;
