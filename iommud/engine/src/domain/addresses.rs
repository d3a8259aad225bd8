//! Which I/O addresses of a domain are taken, and where a new mapping goes.

use dma_types::{Iova, PAGE_SIZE};

use super::mappings::Note;
use crate::error::EngineError;
use crate::iova::{
    Guard, HYPERTRANSPORT_RANGE, INTERRUPT_RANGE, Idle, IovaAllocator, IovaError, IovaRange,
    IovaRequest, Live, PAGE_ZERO, RecordPlace,
};
use crate::unit::{Abilities, Walks};

/// Where a mapping is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever there is room in the domain's aperture. The page behind it stays unmapped.
    Anywhere {
        /// What the address must be a multiple of: a power of two, at least 4096.
        align: u64,
        /// The lowest address that the mapping may touch.
        first: Iova,
        /// The highest address that the mapping may touch.
        limit: Iova,
    },
    /// There and nowhere else. What follows may be mapped, too.
    At {
        /// Its first address, a multiple of 4096.
        iova: Iova,
        /// The highest address that the mapping may touch.
        limit: Iova,
    },
}

/// The addresses of a domain.
#[derive(Debug)]
pub struct Addresses {
    allocator: IovaAllocator<Note>,
    /// Nothing is given out beyond.
    aperture: IovaRange,
    /// The sizes of pages: bit *n* for pages of two to the *n* bytes.
    page_sizes: u64,
    /// The smallest size that a large page has.
    large_page: u64,
}

impl Addresses {
    /// All addresses that a table with these abilities translates, or those of an aperture of them. The ranges of
    /// `reserved` are never given out.
    ///
    /// # Errors
    ///
    /// [`EngineError::Iova`] for an aperture that is not one or more whole pages of those addresses.
    pub fn new(
        abilities: &Abilities,
        aperture: Option<IovaRange>,
        reserved: impl IntoIterator<Item = IovaRange>,
    ) -> Result<Self, EngineError> {
        let last =
            u64::MAX.checked_shl(abilities.address_bits.into()).map_or(u64::MAX, |high| !high);
        let last = Iova::new(last);
        let everything = IovaRange::new(Iova::new(0), last.get().saturating_add(1));
        let aperture = aperture.map_or(Ok(everything), |aperture| checked(aperture, last))?;
        // The aperture ends where the space does, so that its last page can be given out without a guard behind it.
        let mut allocator = IovaAllocator::with_notes(aperture.last().unwrap_or(last));
        let hypertransport = match abilities.walks {
            Walks::AmdV1 => Some(HYPERTRANSPORT_RANGE),
            Walks::SecondStage | Walks::Nothing => None,
        };
        let before = IovaRange::new(Iova::new(0), aperture.start.get());
        let before = (before.bytes > 0).then_some(before);
        let everywhere = [PAGE_ZERO, INTERRUPT_RANGE].into_iter().chain(hypertransport);
        for range in everywhere.chain(before).chain(reserved) {
            allocator.reserve(range)?;
        }
        let page_sizes = abilities.page_sizes;
        let large = page_sizes & !(2 * PAGE_SIZE - 1);
        let large_page = if large == 0 { u64::MAX } else { 1 << large.trailing_zeros() };
        Ok(Self { allocator, aperture, page_sizes, large_page })
    }

    /// The aperture in which addresses are given out.
    pub fn aperture(&self) -> IovaRange {
        self.aperture
    }

    /// The addresses that are never given out.
    pub fn reserved(&self) -> impl Iterator<Item = IovaRange> {
        self.allocator.reserved()
    }

    /// Takes addresses that are free, if it can be such that the largest pages do.
    #[inline]
    pub fn take(&mut self, request: IovaRequest) -> Result<Iova, EngineError> {
        if request.bytes < self.large_page {
            return Ok(self.allocator.alloc(request)?);
        }
        self.take_aligned(request)
    }

    /// Takes addresses for large pages.
    fn take_aligned(&mut self, request: IovaRequest) -> Result<Iova, EngineError> {
        let natural = request.aligned(self.natural(request.bytes, request.align));
        // Large pages are an advantage and no need: where only an odd place is free, small ones do.
        let taken = self.allocator.alloc(natural).or_else(|_| self.allocator.alloc(request));
        Ok(taken?)
    }

    /// Takes just these addresses, without a guard behind them.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutsideAperture`], [`EngineError::BeyondLimit`], or [`EngineError::Iova`] if they are not free.
    pub fn take_at(&mut self, iova: Iova, bytes: u64, limit: Iova) -> Result<(), EngineError> {
        let range = IovaRange::new(iova, bytes);
        match range.last() {
            Some(last) if iova < self.aperture.start || Some(last) > self.aperture.last() => {
                Err(EngineError::OutsideAperture { range, aperture: self.aperture })
            }
            Some(last) if last > limit => Err(EngineError::BeyondLimit { range, limit }),
            _ => Ok(self.allocator.alloc_at(iova, bytes, Guard::None)?),
        }
    }

    /// Takes addresses for pieces of these lengths, each directly behind the one before, as one range, which may be
    /// split: where it starts, and how long it is.
    pub fn take_chain(
        &mut self,
        place: Place,
        lengths: impl Iterator<Item = u64>,
    ) -> Result<(Iova, u64), EngineError> {
        let mut bytes = 0u64;
        for length in lengths {
            match length {
                0 => return Err(IovaError::ZeroSize.into()),
                _ if !length.is_multiple_of(PAGE_SIZE) => {
                    return Err(IovaError::NotPages { bytes: length }.into());
                }
                _ => {}
            }
            bytes = bytes.checked_add(length).ok_or(IovaError::OutsideSpace {
                range: IovaRange::new(Iova::new(0), u64::MAX),
                last: self.allocator.last(),
            })?;
        }
        let iova = match place {
            Place::Anywhere { align, first, limit } => {
                self.take(IovaRequest { bytes, align, first, limit })?
            }
            Place::At { iova, limit } => {
                self.take_at(iova, bytes, limit)?;
                iova
            }
        };
        Ok((iova, bytes))
    }

    /// Makes one range that was taken several of these lengths, of which each can be freed alone.
    pub(super) fn split(&mut self, iova: Iova, lengths: impl IntoIterator<Item = u64>) {
        self.allocator.split(iova, lengths);
    }

    /// Addresses that [`take`](Self::take) would give, if they are at hand.
    #[inline(always)]
    pub(super) fn idle_at_hand(&mut self, request: &IovaRequest) -> Option<Idle<'_, Note>> {
        let IovaRequest { bytes, align, .. } = *request;
        let align = if bytes < self.large_page { align } else { self.natural(bytes, align) };
        self.allocator.idle_at_hand(&request.aligned(align))
    }

    /// What was taken as just this range, if something is noted of it and it can be freed without a search.
    #[inline(always)]
    pub(super) fn live_at_hand(&mut self, iova: Iova, bytes: u64) -> Option<Live<'_, Note>> {
        self.allocator.live_at_hand(iova, bytes)
    }

    /// Notes what is mapped at addresses that are taken.
    #[inline]
    pub(super) fn note(&mut self, iova: Iova, note: Note) {
        self.allocator.note(iova, note);
    }

    /// What is noted of addresses that were taken as just this range, and where their record is.
    #[inline]
    pub(super) fn find_noted(&mut self, iova: Iova, bytes: u64) -> Option<(RecordPlace, Note)> {
        self.allocator.find_noted(iova, bytes)
    }

    /// What is noted of the addresses that were taken from here on, and their length in bytes.
    #[inline]
    pub(super) fn noted(&self, iova: Iova) -> Option<(u64, Note)> {
        self.allocator.noted(iova)
    }

    /// Notes that nothing is mapped any more at addresses that stay taken.
    #[inline]
    pub(super) fn forget(&mut self, place: RecordPlace) {
        self.allocator.forget(place);
    }

    /// The taken addresses of which this is one, and what is noted of them.
    pub(super) fn noted_around(&self, iova: Iova) -> Option<(IovaRange, Note)> {
        self.allocator.noted_around(iova)
    }

    /// All that is noted of addresses that were taken from this one on.
    pub(super) fn noted_from(&self, iova: Iova) -> impl Iterator<Item = (IovaRange, Note)> {
        self.allocator.noted_from(iova)
    }

    /// Makes addresses free again that were taken as this range.
    #[inline]
    pub fn free(&mut self, iova: Iova, bytes: u64) {
        let freed = self.allocator.free(iova, bytes);
        debug_assert_eq!(freed, Ok(()));
    }

    /// The same of several ranges, one behind the other.
    pub fn free_all(&mut self, ranges: &[(Iova, u64)]) {
        let freed = self.allocator.free_all(ranges);
        debug_assert_eq!(freed, Ok(()));
    }

    /// How many pieces are taken, and how many bytes of addresses these are with their guards.
    pub fn taken(&self) -> (u64, u64) {
        let Self { allocator, .. } = self;
        (allocator.allocations(), allocator.allocated_bytes() + allocator.guard_bytes())
    }

    /// What an address should be a multiple of, besides, that so many bytes are to have.
    #[inline]
    fn natural(&self, bytes: u64, align: u64) -> u64 {
        align.max(self.natural_alignment(bytes))
    }

    /// What an address should be a multiple of, so that a buffer of this size can be mapped by the
    /// largest pages that it fills.
    #[inline]
    fn natural_alignment(&self, bytes: u64) -> u64 {
        let within = bytes.checked_ilog2().map_or(0, |order| (2u64 << order.min(62)) - 1);
        (self.page_sizes & within).checked_ilog2().map_or(PAGE_SIZE, |order| 1 << order)
    }
}

/// An aperture, if it is one or more whole pages of a space that ends at `last`.
fn checked(aperture: IovaRange, last: Iova) -> Result<IovaRange, IovaError> {
    let IovaRange { start, bytes } = aperture;
    if bytes == 0 {
        return Err(IovaError::ZeroSize);
    }
    if !start.is_aligned(PAGE_SIZE) {
        return Err(IovaError::NotPageStart { iova: start });
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(IovaError::NotPages { bytes });
    }
    match aperture.last() {
        Some(end) if end <= last => Ok(aperture),
        _ => Err(IovaError::OutsideSpace { range: aperture, last }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Depths;

    const PAGE: u64 = PAGE_SIZE;
    const ANYWHERE: Place =
        Place::Anywhere { align: PAGE, first: Iova::new(0), limit: Iova::new(u64::MAX) };

    fn aperture(start: u64, bytes: u64) -> Result<Addresses, EngineError> {
        let abilities = Abilities {
            walks: Walks::SecondStage,
            depths: Depths::new([3]),
            page_sizes: 0x20_1000,
            address_bits: 39,
            coherent: true,
            write_needs_read: false,
        };
        Addresses::new(&abilities, Some(IovaRange::new(Iova::new(start), bytes)), [])
    }

    /// Takes addresses for pieces of these lengths, each of which can be freed alone.
    fn chain(
        addresses: &mut Addresses,
        place: Place,
        lengths: &[u64],
    ) -> Result<Iova, EngineError> {
        let (iova, bytes) = addresses.take_chain(place, lengths.iter().copied())?;
        assert_eq!(bytes, lengths.iter().sum::<u64>());
        addresses.split(iova, lengths.iter().copied());
        Ok(iova)
    }

    fn at(iova: u64) -> Place {
        Place::At { iova: Iova::new(iova), limit: Iova::new(u64::MAX) }
    }

    #[test]
    fn an_aperture_is_given_out_to_its_last_page_and_nothing_beyond() {
        let mut addresses = aperture(0x10_0000, 2 * PAGE).unwrap();
        assert_eq!(chain(&mut addresses, ANYWHERE, &[PAGE]), Ok(Iova::new(0x10_0000)));
        assert!(chain(&mut addresses, at(0x10_1000), &[PAGE]).is_err(), "it is a guard");
        addresses.free(Iova::new(0x10_0000), PAGE);
        assert_eq!(chain(&mut addresses, ANYWHERE, &[2 * PAGE]), Ok(Iova::new(0x10_0000)));
        assert!(matches!(chain(&mut addresses, ANYWHERE, &[PAGE]), Err(EngineError::Iova(_))));
        for outside in [0xf_f000, 0x10_2000, 0] {
            let refused = chain(&mut addresses, at(outside), &[PAGE]);
            assert!(matches!(refused, Err(EngineError::OutsideAperture { .. })), "{outside:#x}");
        }
        let across = chain(&mut addresses, at(0x10_1000), &[2 * PAGE]);
        assert!(matches!(across, Err(EngineError::OutsideAperture { .. })));
    }

    #[test]
    fn r5_what_is_no_aperture_is_refused() {
        for (start, bytes) in
            [(0x1000, 0), (0x1001, PAGE), (0x1000, 5), (1 << 39, PAGE), (u64::MAX - 0xfff, PAGE)]
        {
            assert!(aperture(start, bytes).is_err(), "{start:#x}, {bytes:#x} bytes");
        }
        assert!(aperture((1 << 39) - PAGE, PAGE).is_ok());
    }

    #[test]
    fn a_chosen_address_keeps_below_the_limit_and_needs_no_guard() {
        let mut addresses = aperture(0x10_0000, 1 << 20).unwrap();
        let place = Place::At { iova: Iova::new(0x10_0000), limit: Iova::new(0x10_1ffe) };
        let refused = chain(&mut addresses, place, &[2 * PAGE]);
        assert!(matches!(refused, Err(EngineError::BeyondLimit { .. })));
        assert!(chain(&mut addresses, at(0x10_0000), &[PAGE]).is_ok());
        assert!(chain(&mut addresses, at(0x10_1000), &[PAGE]).is_ok());
    }

    #[test]
    fn the_pieces_of_a_chain_follow_each_other_and_each_is_freed_alone() {
        let mut addresses = aperture(0x10_0000, 1 << 20).unwrap();
        for place in [ANYWHERE, at(0x10_0000)] {
            let start = chain(&mut addresses, place, &[PAGE, 3 * PAGE, PAGE]).unwrap();
            assert_eq!(start, Iova::new(0x10_0000));
            addresses.free(Iova::new(0x10_1000), 3 * PAGE);
            assert!(chain(&mut addresses, at(0x10_0000), &[PAGE]).is_err());
            assert!(chain(&mut addresses, at(0x10_1000), &[PAGE; 3]).is_ok());
            assert!(chain(&mut addresses, at(0x10_4000), &[PAGE]).is_err());
            let guarded = chain(&mut addresses, at(0x10_5000), &[PAGE]);
            assert_eq!(guarded.is_err(), place == ANYWHERE, "behind the last is a guard");
            for page in 0..5 {
                addresses.free(Iova::new(0x10_0000 + page * PAGE), PAGE);
            }
            if guarded.is_ok() {
                addresses.free(Iova::new(0x10_5000), PAGE);
            }
        }
    }

    #[test]
    fn r7_a_chain_that_cannot_be_takes_nothing() {
        let mut addresses = aperture(0x10_0000, 8 * PAGE).unwrap();
        chain(&mut addresses, at(0x10_3000), &[PAGE]).unwrap();
        for (place, lengths) in [
            (at(0x10_1000), [PAGE, PAGE, PAGE]),
            (ANYWHERE, [2 * PAGE, 2 * PAGE, PAGE]),
            (ANYWHERE, [u64::MAX, PAGE, PAGE]),
            (at(0x10_1000), [PAGE, 0, PAGE]),
            (at(0x10_1000), [PAGE / 2, PAGE / 2, PAGE]),
        ] {
            assert!(chain(&mut addresses, place, &lengths).is_err(), "{place:?}");
        }
        for page in [0, 1, 2, 4, 5, 6, 7] {
            assert!(chain(&mut addresses, at(0x10_0000 + page * PAGE), &[PAGE]).is_ok());
        }
    }
}
