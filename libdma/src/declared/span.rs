//! What is taken of a device's own memory.

use core::ops::Range;
use core::ptr::NonNull;

use dma_types::Iova;

use super::{DeclareError, DeviceMemory, Mode, PAGE};
use crate::buffer::Buffer;
use crate::check::{self, Kind, Mark, Note};
use crate::session::Session;
use crate::window::{BlockRequest, Buddy};

/// What blocks start at a multiple of, at least: a line of the CPU's cache.
const LINE: usize = 64;

/// How much is taken of a device's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeclaredUsage {
    /// Whether coherent memory may come from elsewhere.
    pub mode: Mode,
    /// How many bytes it is.
    pub bytes: usize,
    /// How many of them are occupied.
    pub occupied: usize,
    /// How many are taken, with what each block is rounded up to.
    pub used: usize,
    /// How many blocks they are taken in.
    pub blocks: usize,
}

/// A device's own memory, and what is taken of it.
pub(crate) struct Span {
    memory: DeviceMemory,
    geometry: Geometry,
    buddy: Buddy,
    usage: DeclaredUsage,
    #[allow(dead_code, reason = "it is dropped with the span")]
    mark: Mark,
}

/// How memory lies in a span of units that starts at a multiple of its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// The device's address of the memory.
    address: u64,
    /// How far into the span the memory starts.
    lead: usize,
    /// How many bytes one unit is.
    unit: usize,
    /// How many units the span is.
    units: usize,
}

/// A block of it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) start: NonNull<u8>,
    pub(crate) iova: Iova,
    pub(crate) unit: usize,
    pub(crate) order: u32,
}

impl Span {
    /// How this memory lies, if it can be declared for the device of this session.
    pub(super) fn check(
        memory: &DeviceMemory,
        session: &Session,
    ) -> Result<Geometry, DeclareError> {
        if memory.buffer().is_some_and(|buffer| !buffer.session().is_the_same_as(session)) {
            return Err(DeclareError::WrongDevice);
        }
        let address = memory.address().ok_or(DeclareError::NotMapped)?;
        Geometry::new(address.get(), memory.start().as_ptr().addr(), memory.len())
    }

    #[track_caller]
    pub(super) fn new(
        memory: DeviceMemory,
        geometry: Geometry,
        mode: Mode,
        session: &Session,
    ) -> Self {
        let bytes = memory.len();
        let mut buddy = Buddy::taken(geometry.units);
        buddy.free_range(geometry.whole_units(bytes));
        let usage = DeclaredUsage { mode, bytes, occupied: 0, used: 0, blocks: 0 };
        let mark = if check::is_on() { noted(&memory, geometry, session) } else { Mark::default() };
        Self { memory, geometry, buddy, usage, mark }
    }

    /// Whether coherent memory may come from nowhere else.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.usage.mode == Mode::Exclusive
    }

    pub(super) fn usage(&self) -> DeclaredUsage {
        self.usage
    }

    /// Takes a block, if there is one of this kind.
    pub(crate) fn alloc(&mut self, request: &BlockRequest<'_>) -> Option<Taken> {
        if !self.memory.serves(request.access) {
            return None;
        }
        let Geometry { address, lead, unit: size, .. } = self.geometry;
        let whole = request.bytes.max(request.align).checked_next_power_of_two()?;
        let order = whole.div_ceil(size).ilog2();
        let unit = self.buddy.alloc(order)?;
        // What is free lies behind the lead.
        let offset = unit * size - lead;
        let iova = address + offset as u64;
        if iova + (request.bytes as u64 - 1) > request.limit.get() {
            self.buddy.free(unit, order);
            return None;
        }
        self.usage.blocks += 1;
        self.usage.used += size << order;
        // SAFETY: the block lies in the memory, whose units alone were made free.
        let start = unsafe { self.memory.start().add(offset) };
        Some(Taken { start, iova: Iova::new(iova), unit, order })
    }

    /// Gives back what [`alloc`](Self::alloc) took.
    pub(crate) fn free(&mut self, unit: usize, order: u32) {
        self.buddy.free(unit, order);
        self.usage.blocks -= 1;
        self.usage.used -= self.geometry.unit << order;
    }

    pub(super) fn occupy(&mut self, offset: usize, bytes: usize) -> Result<(), DeclareError> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.usage.bytes);
        let end = end.ok_or(DeclareError::OutOfRange)?;
        let Geometry { lead, unit, .. } = self.geometry;
        // What is in no whole unit is nobody's anyway.
        let whole = self.geometry.whole_units(self.usage.bytes);
        let start = ((lead + offset) / unit).max(whole.start);
        let end = (lead + end).div_ceil(unit).min(whole.end);
        let units = start..if bytes == 0 { start } else { end };
        let bytes = units.len() * unit;
        if !self.buddy.take(units) {
            return Err(DeclareError::Occupied);
        }
        self.usage.occupied += bytes;
        Ok(())
    }

    /// Whether no block of it lives.
    pub(crate) fn check_unused(&self) -> Result<(), DeclareError> {
        match self.usage.blocks {
            0 => Ok(()),
            blocks => Err(DeclareError::InUse { blocks }),
        }
    }

    /// The memory, which is declared no more.
    pub(crate) fn into_memory(self) -> DeviceMemory {
        self.memory
    }
}

/// Tells the checker of the memory, which it calls as the buffer that it is, if it is one.
#[track_caller]
#[cold]
fn noted(memory: &DeviceMemory, geometry: Geometry, session: &Session) -> Mark {
    let buffer = memory.buffer();
    let note = Note {
        kind: Kind::Declared,
        label: "the device's own",
        space: session.space(),
        iova: Some(Iova::new(geometry.address)),
        bytes: memory.len() as u64,
        access: buffer.and_then(Buffer::access),
    };
    check::made_of(buffer.map(Buffer::mark).as_slice(), || note)
}

impl Geometry {
    /// How `bytes` bytes lie that the device sees at one address and the CPU at another.
    fn new(address: u64, cpu: usize, bytes: usize) -> Result<Self, DeclareError> {
        let aligned = |value: usize| value.is_multiple_of(LINE);
        let apart = address.wrapping_sub(cpu as u64).is_multiple_of(PAGE as u64);
        if !aligned(cpu) || !aligned(bytes) || !apart {
            return Err(DeclareError::BadAlignment);
        }
        let longest = isize::MAX as usize / 2;
        if bytes == 0 || bytes > longest || address.checked_add(bytes as u64).is_none() {
            return Err(DeclareError::BadLength);
        }
        // A block is aligned for the device if it is aligned in a span that starts at a multiple of the largest block.
        let largest = bytes.next_power_of_two();
        let lead = (address % largest as u64) as usize;
        let span = if lead + bytes <= largest { largest } else { 2 * largest };
        let unit = (span / Buddy::LIMIT).max(LINE);
        Ok(Self { address, lead, unit, units: span / unit })
    }

    /// The units that lie in the memory, which is so many bytes, from end to end.
    fn whole_units(&self, bytes: usize) -> Range<usize> {
        self.lead.div_ceil(self.unit)..(self.lead + bytes) / self.unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_starts_at_a_multiple_of_the_largest_block() {
        let geometry = |address, bytes| Geometry::new(address, address as usize % PAGE, bytes);
        let at = geometry(0x1_0000, 0x1_0000).unwrap();
        assert_eq!((at.lead, at.unit, at.units), (0, 64, 1024));
        let across = geometry(0x1_f000, 0x3000).unwrap();
        assert_eq!((across.lead, across.unit, across.units), (0x3000, 64, 512));
        let large = geometry(0x8000_0000, 64 << 20).unwrap();
        assert_eq!((large.lead, large.unit, large.units), (0, 256, Buddy::LIMIT));
        let refused = |address, bytes| geometry(address, bytes).map(drop);
        assert_eq!(refused(0x1020, 64), Err(DeclareError::BadAlignment));
        assert_eq!(refused(0x1000, 65), Err(DeclareError::BadAlignment));
        assert_eq!(refused(0x1000, 0), Err(DeclareError::BadLength));
        assert_eq!(refused(!63, 64), Err(DeclareError::BadLength));
        assert_eq!(Geometry::new(0x1000, 0x40, 64).map(drop), Err(DeclareError::BadAlignment));
    }
}
