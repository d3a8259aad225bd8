//! The pieces of a list, and how they become the device's and the CPU's again.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{Ordering, fence};

use dma_types::Iova;

use super::merge::{Merged, Segment};
use super::piece::{Piece, Run, Slice};
use crate::check::{self, Kind, Mark};
use crate::copy;
use crate::direction::Direction;
use crate::protocol::Error;
use crate::stream::{Origin, Terms, batch};

/// How many bytes of slices are copied into one block at the most, if they are several: as much as comes from windows
/// without a request, and no device's limit.
const RUN: usize = 64 << 10;

/// The pieces of a list.
pub(super) struct Contents<'a, D: Direction> {
    pub(super) terms: Arc<Terms>,
    pieces: Vec<Piece<'a, D>>,
    /// What the pieces are to the device: as long as all are in windows, whose addresses stay; else it is found out when they
    /// are mapped.
    merged: Merged,
    /// How many of the pieces there are that are in no window, or slices.
    elsewhere: usize,
    /// How many of them are slices.
    slices: usize,
    /// How many of them were lent.
    lent: usize,
    /// Of each segment, while the list is mapped and the checker is on.
    pub(super) marks: Vec<Mark>,
    /// Whether it is mapped,
    mapped: bool,
    /// and all of it is pages that are mapped strictly.
    strictly: bool,
    /// Whether what the device wrote is to come back to the slices at the end.
    brings_back: bool,
}

impl<'a, D: Direction> Contents<'a, D> {
    pub(super) fn new(terms: Arc<Terms>) -> Self {
        let (pieces, merged, marks) = (Vec::new(), Merged::default(), Vec::new());
        Self {
            terms,
            pieces,
            merged,
            elsewhere: 0,
            slices: 0,
            lent: 0,
            marks,
            mapped: false,
            strictly: false,
            brings_back: false,
        }
    }

    pub(super) fn pieces(&self) -> &[Piece<'a, D>] {
        &self.pieces
    }

    /// Those that the device is told of, while it is mapped.
    pub(super) fn segments(&self) -> &[Segment] {
        if self.mapped { &self.merged.segments } else { &[] }
    }

    /// Puts a piece behind the others.
    #[inline]
    pub(super) fn push(&mut self, piece: Piece<'a, D>) {
        match piece.in_window() {
            Some((iova, bytes)) => self.merged.append(self.terms.limits(), iova, bytes as u64),
            None => self.elsewhere += 1,
        }
        self.slices += usize::from(matches!(piece, Piece::Slice(_)));
        self.lent += usize::from(matches!(piece, Piece::Lent(..)));
        self.pieces.push(piece);
    }

    /// Takes all pieces out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Piece<'a, D>> {
        (self.elsewhere, self.slices, self.lent) = (0, 0, 0);
        self.merged.clear();
        self.pieces.drain(..)
    }

    /// No pieces, in the memory of these.
    pub(super) fn emptied<'b>(&mut self) -> Contents<'b, D> {
        let mut contents = Contents::new(self.terms.clone());
        // Collected where they are.
        contents.pieces = mem::take(&mut self.pieces).into_iter().map_while(|_| None).collect();
        contents.merged = mem::take(&mut self.merged);
        contents.merged.clear();
        contents
    }

    /// Makes all of it the device's, or nothing (rule R7).
    #[track_caller]
    pub(super) fn map(&mut self) -> Result<(), Error> {
        if self.pieces.is_empty() {
            return Err(Error::ZeroSize);
        }
        if self.elsewhere == 0 && !check::is_on() {
            self.mapped = true;
            self.set_away(true);
            fence(Ordering::Release);
            return Ok(());
        }
        if self.terms.strict && self.elsewhere == self.pieces.len() && self.slices == 0 {
            let Self { terms, pieces, .. } = self;
            let count = pieces.len();
            if let Some(mapped) = batch::map_list(terms, D::ACCESS, &mut **pieces, count) {
                mapped?;
                self.strictly = true;
                self.set_mapped();
                return Ok(());
            }
        }
        self.map_otherwise()
    }

    /// The same where there is more to be done than to say so.
    #[track_caller]
    fn map_otherwise(&mut self) -> Result<(), Error> {
        let result = self.find_memory().and_then(|()| {
            let Self { terms, pieces, .. } = self;
            batch::map(terms, D::ACCESS, &mut all_pages(pieces))
        });
        if result.is_err() {
            self.let_go();
            return result;
        }
        if !self.terms.skip_cpu_sync() {
            // Where data only comes from the device, too: what it does not write is to stay as it was.
            self.bring();
            self.brings_back = D::ACCESS.may_write();
        }
        self.set_mapped();
        Ok(())
    }

    /// Says that it is mapped, and where.
    #[track_caller]
    fn set_mapped(&mut self) {
        self.mapped = true;
        self.set_away(true);
        if self.elsewhere > 0 {
            self.merge();
        }
        if check::is_on() {
            let of: Vec<&Mark> = self.pieces.iter().filter_map(Piece::memory_mark).collect();
            for &Segment { iova, bytes } in &self.merged.segments {
                self.marks.push(self.terms.mark(Kind::Scatter, &of, iova, bytes, D::ACCESS));
            }
        }
        fence(Ordering::Release);
    }

    /// Makes all of it the CPU's again, or nothing.
    pub(super) fn unmap(&mut self) -> Result<(), Error> {
        if self.strictly {
            let Self { terms, pieces, .. } = self;
            let count = pieces.len();
            batch::unmap_list(terms, &mut **pieces, count)?;
        } else if self.elsewhere > 0 {
            let Self { terms, pieces, .. } = self;
            batch::unmap(terms, &mut all_pages(pieces))?;
        }
        fence(Ordering::Acquire);
        self.set_away(false);
        if self.brings_back {
            self.bring_back();
        }
        self.let_go();
        Ok(())
    }

    /// The CPU's turn.
    pub(super) fn sync_for_cpu(&mut self) {
        fence(Ordering::Acquire);
        for it in self.pieces.iter_mut().filter_map(Piece::pages) {
            it.pages.sync_for_cpu(it.bytes, D::ACCESS);
        }
        if D::ACCESS.may_write() {
            self.bring_back();
        }
        // From here on the slices are newer than their copies.
        self.brings_back = false;
    }

    /// The device's turn.
    pub(super) fn sync_for_device(&mut self) {
        for it in self.pieces.iter_mut().filter_map(Piece::pages) {
            it.pages.sync_for_device(it.bytes, D::ACCESS);
        }
        if D::ACCESS.may_read() {
            self.bring();
        }
        self.brings_back = D::ACCESS.may_write() && !self.terms.skip_cpu_sync();
        fence(Ordering::Release);
    }

    /// Finds memory for the copies of slices: for those that follow each other in one piece.
    fn find_memory(&mut self) -> Result<(), Error> {
        if self.slices == 0 {
            return Ok(());
        }
        let mut first = 0;
        while let Some(rest) = self.pieces.get_mut(first..).filter(|rest| !rest.is_empty()) {
            let (count, bytes) = run(rest);
            if let Some(Piece::Slice(slice)) = rest.first_mut() {
                slice.memory = Some((self.terms.memory(bytes, D::ACCESS)?, bytes));
            }
            first += count;
        }
        Ok(())
    }

    /// Says of what was lent whether the device has it.
    fn set_away(&mut self, is_away: bool) {
        if self.lent > 0 {
            self.pieces.iter_mut().for_each(|piece| piece.set_away(is_away));
        }
    }

    /// The segments that the device is to be told of.
    fn merge(&mut self) {
        let Self { terms, pieces, merged, .. } = self;
        let (mut run, limits) = (Run::default(), terms.limits());
        merged.clear();
        for piece in pieces.iter() {
            let (bytes, start) = match piece {
                Piece::Given(buffer, range) => (range.len(), Some((buffer.memory(), range.start))),
                Piece::Lent(buffer, range) => (range.len(), Some((buffer.memory(), range.start))),
                Piece::Slice(Slice { origin, memory }) => {
                    let bytes = origin.bytes().len();
                    (bytes, run.step(memory, bytes))
                }
            };
            if let Some((memory, start)) = start {
                let iova = Iova::new(memory.iova().get().wrapping_add(start as u64));
                merged.append(limits, iova, bytes as u64);
            }
        }
    }

    /// Copies the slices to where the device reads.
    fn bring(&self) {
        if self.slices == 0 {
            return;
        }
        let mut run = Run::default();
        for piece in &self.pieces {
            if let Piece::Slice(Slice { origin, memory }) = piece
                && let Some((memory, start)) = run.step(memory, origin.bytes().len())
            {
                // SAFETY: the memory was made as long as all the slices of the run together.
                unsafe { copy::copy_in(memory.as_ptr().add(start), origin.bytes()) };
            }
        }
    }

    /// Copies back what the device may have written.
    fn bring_back(&mut self) {
        if self.slices == 0 {
            return;
        }
        let mut run = Run::default();
        for piece in &mut self.pieces {
            if let Piece::Slice(Slice { origin, memory }) = piece
                && let Some((memory, start)) = run.step(memory, origin.bytes().len())
                && let Origin::Exclusive(bytes) = origin
            {
                // SAFETY: as in `bring`.
                unsafe { copy::copy_out(memory.as_ptr().add(start), bytes) };
            }
        }
    }

    /// Gives the memory of copies back.
    fn let_go(&mut self) {
        (self.mapped, self.strictly) = (false, false);
        self.brings_back = false;
        if self.slices == 0 {
            return;
        }
        for piece in &mut self.pieces {
            if let Piece::Slice(slice) = piece {
                slice.memory = None;
            }
        }
    }
}

/// What is to be mapped or unmapped of them.
fn all_pages<'p, D: Direction>(pieces: &'p mut [Piece<'_, D>]) -> Vec<batch::Piece<'p>> {
    batch::collected(pieces.len(), pieces.iter_mut().filter_map(Piece::pages))
}

/// How many of the first pieces go together, and how long they are: slices that follow each other, while they are no
/// more than [`RUN`] together; or one.
fn run<D: Direction>(pieces: &[Piece<'_, D>]) -> (usize, usize) {
    let mut bytes = pieces.first().map_or(0, Piece::len);
    let mut count = 1;
    if matches!(pieces.first(), Some(Piece::Slice(_))) {
        for piece in pieces.iter().skip(1) {
            let together = bytes.saturating_add(piece.len());
            if !matches!(piece, Piece::Slice(_)) || together > RUN {
                break;
            }
            (count, bytes) = (count + 1, together);
        }
    }
    (count, bytes)
}

impl<D: Direction> Drop for Contents<'_, D> {
    fn drop(&mut self) {
        if self.mapped {
            // Who wants to know whether the device lost its access unmaps.
            let _ = self.unmap();
        }
    }
}
