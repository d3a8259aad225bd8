//! Which blocks of a pool there are, and which are free. Nothing of it lies in memory that the device sees.

use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::Iova;

use super::NotTaken;
use super::layout::Layout;

/// A block, by where it is. Who has one has the block: there is one at a time. It is two words, for every block that is
/// given out or back moves one.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) memory: NonNull<u8>,
    pub(super) iova: Iova,
}

// SAFETY: it is an address; the memory there is not tied to a thread.
unsafe impl Send for Slot {}

/// A piece of memory with blocks in it.
#[derive(Debug)]
struct Chunk<Memory> {
    /// Keeps the memory.
    memory: Memory,
    start: NonNull<u8>,
    iova: Iova,
    layout: Layout,
    /// A bit for each block: whether it was left to the device.
    left: Vec<u64>,
}

// SAFETY: as for `Slot`; the memory that it keeps says for itself whether it may move to another thread.
unsafe impl<Memory: Send> Send for Chunk<Memory> {}

/// Which blocks there are, and which are free. `Memory` keeps a chunk's memory.
#[derive(Debug)]
pub(super) struct Slots<Memory> {
    /// The last that was given back is the first to be given out: it is in the CPU's cache. There is room for all blocks,
    /// so that giving back allocates nothing.
    free: Vec<Slot>,
    /// How many blocks there are.
    blocks: usize,
    /// The fewest that were free since `blocks` last changed, and the most in use before.
    least_free: usize,
    most_in_use: usize,
    given_out: u64,
    /// With how many free blocks it is time to see whether chunks are idle.
    trim_at: usize,
    /// By their numbers.
    chunks: Vec<Option<Chunk<Memory>>>,
    /// By their I/O addresses, which do not overlap.
    order: Vec<(Iova, u32)>,
    /// How many free blocks stay when chunks are given back.
    keep: usize,
}

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
            free: Vec::new(),
            blocks: 0,
            least_free: 0,
            most_in_use: 0,
            given_out: 0,
            trim_at: usize::MAX,
            chunks: Vec::new(),
            order: Vec::new(),
            keep,
        }
    }

    /// Gives a block out, if one is free.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Slot> {
        let slot = self.free.pop()?;
        if self.free.len() < self.least_free {
            self.least_free = self.free.len();
        }
        self.given_out += 1;
        Some(slot)
    }

    /// Takes a block back if that takes a few steps: there is room, and it is not time to [`trim`](Self::trim). The block, if
    /// not.
    #[inline]
    pub(super) fn push_few(&mut self, slot: Slot) -> Option<Slot> {
        let free = self.free.len();
        if free + 1 >= self.trim_at || free == self.free.capacity() {
            return Some(slot);
        }
        self.free.push(slot);
        None
    }

    /// Takes a block back. Whether it is time to [`trim`](Self::trim).
    pub(super) fn push(&mut self, slot: Slot) -> bool {
        self.free.push(slot);
        self.free.len() >= self.trim_at
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
        self.note_most();
        let number = self.chunks.iter().position(Option::is_none).unwrap_or(self.chunks.len());
        let left = alloc::vec![0; blocks.div_ceil(64)];
        let chunk = Some(Chunk { memory, start, iova, layout, left });
        match self.chunks.get_mut(number) {
            Some(place) => *place = chunk,
            None => self.chunks.push(chunk),
        }
        self.order.insert(at, (iova, number as u32));
        self.blocks += blocks;
        self.free.reserve(self.blocks - self.free.len());
        // So that the first comes first.
        for index in (0..blocks).rev() {
            let offset = layout.offset_of(index);
            // SAFETY: the layout lies in the chunk whole.
            let memory = unsafe { start.add(offset) };
            let iova = Iova::new(iova.get() + offset as u64);
            self.free.push(Slot { memory, iova });
        }
        self.least_free = self.free.len();
        self.trim_at = self.trim_from(0).max(self.free.len() + 1);
        Ok(())
    }

    /// Leaves a block to the device: it is known by its address alone.
    pub(super) fn leave(&mut self, slot: Slot) -> Iova {
        if let Some((_, mut left)) = self.block_at(slot.iova) {
            left.set(true);
        }
        slot.iova
    }

    /// Takes a block that was left to the device from it.
    pub(super) fn take(&mut self, iova: Iova) -> Result<Slot, NotTaken> {
        let (memory, mut left) = self.block_at(iova).ok_or(NotTaken::NoBlock)?;
        if left.get() {
            left.set(false);
            return Ok(Slot { memory, iova });
        }
        let is_free = self.free.iter().any(|slot| slot.iova == iova);
        Err(if is_free { NotTaken::Free } else { NotTaken::Held })
    }

    /// Gives idle chunks up, as long as `keep` free blocks stay: their memory, and how long it is.
    pub(super) fn trim(&mut self, keep: usize) -> Vec<(Memory, usize)> {
        self.note_most();
        let mut free_of = alloc::vec![0; self.chunks.len()];
        for slot in &self.free {
            let chunk = chunk_of(&self.order, slot.iova).map(|(_, number)| number as usize);
            if let Some(free) = chunk.and_then(|number| free_of.get_mut(number)) {
                *free += 1;
            }
        }
        let (mut given_up, mut free) = (Vec::new(), self.free.len());
        for (place, idle) in self.chunks.iter_mut().zip(&mut free_of) {
            let blocks = place.as_ref().map_or(0, |chunk| chunk.layout.blocks());
            let is_idle = blocks > 0 && *idle == blocks && free - blocks >= keep;
            *idle = usize::from(is_idle);
            if is_idle && let Some(chunk) = place.take() {
                free -= blocks;
                self.blocks -= blocks;
                given_up.push((chunk.memory, chunk.layout.bytes()));
            }
        }
        let stays = |chunk: u32| free_of.get(chunk as usize) == Some(&0);
        let order = &self.order;
        self.free.retain(|slot| chunk_of(order, slot.iova).is_some_and(|(_, chunk)| stays(chunk)));
        self.order.retain(|&(_, chunk)| stays(chunk));
        self.least_free = self.free.len();
        self.trim_at = self.trim_from(self.free.len());
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

    /// Remembers the most that were in use, before there are other blocks.
    fn note_most(&mut self) {
        self.most_in_use = self.most_in_use();
    }

    fn most_in_use(&self) -> usize {
        self.most_in_use.max(self.blocks - self.least_free)
    }

    /// How much there is.
    pub(super) fn count(&self) -> Count {
        let Self { blocks, given_out, .. } = *self;
        let (in_use, most_in_use) = (blocks - self.free.len(), self.most_in_use());
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
        let has_left = |chunk: &Chunk<Memory>| chunk.left.iter().any(|&bits| bits != 0);
        self.chunks.into_iter().flatten().map(move |chunk| {
            let left = has_left(&chunk);
            (chunk.memory, left)
        })
    }

    /// The block that starts there, if one does: where its memory is, and whether it was left to the device.
    fn block_at(&mut self, iova: Iova) -> Option<(NonNull<u8>, Bit<'_>)> {
        let (start, number) = chunk_of(&self.order, iova)?;
        let chunk = self.chunks.get_mut(number as usize)?.as_mut()?;
        let offset = usize::try_from(iova.get() - start.get()).ok()?;
        let index = chunk.layout.index_of(offset)?;
        // SAFETY: a block of the layout starts there.
        let memory = unsafe { chunk.start.add(offset) };
        let word = chunk.left.get_mut(index / 64)?;
        Some((memory, Bit { word, mask: 1 << (index % 64) }))
    }
}

/// The last chunk that starts at this address or before, which is the only one that can have it: where it starts, and
/// its number.
fn chunk_of(order: &[(Iova, u32)], iova: Iova) -> Option<(Iova, u32)> {
    let after = order.partition_point(|&(start, _)| start <= iova);
    order[..after].last().copied()
}

/// A bit in a word.
struct Bit<'a> {
    word: &'a mut u64,
    mask: u64,
}

impl Bit<'_> {
    fn get(&self) -> bool {
        *self.word & self.mask != 0
    }

    fn set(&mut self, on: bool) {
        *self.word = if on { *self.word | self.mask } else { *self.word & !self.mask };
    }
}

#[cfg(test)]
mod tests;
