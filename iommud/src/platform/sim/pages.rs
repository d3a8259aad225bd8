//! At which physical addresses a buffer run is put.

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;

use crate::platform::pieces::append;

/// The length of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// The longest piece that is given in one: as on Redox.
pub const LONGEST_PIECE: u64 = 4 << 20;

/// Where the pieces below 4 GiB are, and how many. Half of what is there is in none.
const LOW: u64 = 0x4000_0000;
const LOW_PIECES: u64 = 32;

/// Where most of divisible runs is.
const DIVISIBLE: u64 = 0x1c_0000_0000;

/// From what limit on all memory is below.
const HIGHEST: u64 = 0x1f_ffff_ffff;

/// Physical memory of one page size, handed out in an order that scatters.
#[derive(Debug)]
struct Zone {
    start: u64,
    page: u64,
    /// Where in a group of eight pages each of four is put: one pair side by side, the rest apart, and
    /// none in order.
    pattern: [u64; 4],
    free: Vec<u64>,
    fresh: u64,
    /// How many pages there are at all.
    most: u64,
    /// Whether those put back first are taken first.
    late: bool,
    /// Those that are free and not given out.
    withheld: Vec<u64>,
}

impl Zone {
    fn take(&mut self) -> Option<u64> {
        let freed = match self.late {
            true if !self.free.is_empty() => Some(self.free.remove(0)),
            _ => self.free.pop(),
        };
        freed.or_else(|| {
            if self.fresh >= self.most {
                return None;
            }
            let (group, member) = (self.fresh / 4, self.fresh % 4);
            self.fresh += 1;
            Some(self.start + (8 * group + self.pattern[member as usize]) * self.page)
        })
    }
}

/// The physical addresses of buffer runs.
#[derive(Debug)]
pub struct PageBook {
    small: Zone,
    large: Zone,
    /// For runs in one piece, each in a page of its own.
    whole: Zone,
    /// The same below 4 GiB, where there is little.
    low: Zone,
    /// Where the next divisible run is.
    divisible: u64,
}

impl Default for PageBook {
    fn default() -> Self {
        let zone = |start, page, pattern| Zone {
            start,
            page,
            pattern,
            free: Vec::new(),
            fresh: 0,
            most: u64::MAX,
            late: false,
            withheld: Vec::new(),
        };
        Self {
            small: zone(0x2_0000_0000, PAGE_SIZE, [5, 6, 2, 0]),
            large: zone(0x10_0000_0000, LARGE_PAGE, [5, 7, 3, 1]),
            whole: zone(0x18_0000_0000, LONGEST_PIECE, [5, 7, 3, 1]),
            low: Zone { most: LOW_PIECES, ..zone(LOW, LONGEST_PIECE, [5, 7, 3, 1]) },
            divisible: DIVISIBLE,
        }
    }
}

impl PageBook {
    /// Pages for a run of this many bytes (a multiple of 4096): large ones if it is a multiple of their
    /// length. In the order of the run, side by side as one segment.
    pub fn take(&mut self, bytes: u64) -> Vec<Segment> {
        let zone = if bytes.is_multiple_of(LARGE_PAGE) { &mut self.large } else { &mut self.small };
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..bytes / zone.page {
            let Some(start) = zone.take().map(PhysAddr::new) else { break };
            match segments.last_mut() {
                Some(last) if last.start.checked_add(last.bytes) == Some(start) => {
                    last.bytes += zone.page;
                }
                _ => segments.push(Segment { start, bytes: zone.page }),
            }
        }
        segments
    }

    /// A piece for a run of this many bytes, at most [`LONGEST_PIECE`], no byte of which is above `limit`. `None` when
    /// there is none left.
    pub fn take_piece(&mut self, bytes: u64, limit: PhysAddr) -> Option<Vec<Segment>> {
        let zone = if limit.get() >= HIGHEST { &mut self.whole } else { &mut self.low };
        let start = zone.take()?;
        if start + (bytes - 1) > limit.get() {
            zone.free.push(start);
            return None;
        }
        Some(vec![Segment { start: PhysAddr::new(start), bytes }])
    }

    fn zones(&mut self) -> [&mut Zone; 4] {
        let Self { small, large, whole, low, .. } = self;
        [small, large, whole, low]
    }

    /// Gives out nothing that is free now.
    pub fn withhold(&mut self) {
        for zone in self.zones() {
            zone.withheld.append(&mut zone.free);
        }
    }

    /// Gives it out again.
    pub fn release(&mut self) {
        for zone in self.zones() {
            zone.free.append(&mut zone.withheld);
        }
    }

    /// Never gives it out again.
    pub fn forget_withheld(&mut self) {
        self.zones().into_iter().for_each(|zone| zone.withheld.clear());
    }

    /// How many pieces there are below 4 GiB from now on.
    pub fn limit_low(&mut self, pieces: u64) {
        self.low.most = pieces;
    }

    /// From now on pages put back first are taken first, so that each is free for as long as may be.
    pub fn reuse_late(&mut self) {
        for zone in [&mut self.small, &mut self.large, &mut self.whole, &mut self.low] {
            zone.late = true;
        }
    }

    /// Pieces for a run of this many bytes that is to be parted: as on Redox at most [`LONGEST_PIECE`] each, the first below
    /// 4 GiB, the third right behind the second.
    pub fn take_divisible(&mut self, bytes: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut rest = bytes;
        let low = self.low.take();
        for piece in 0.. {
            if rest == 0 {
                break;
            }
            let bytes = rest.min(LONGEST_PIECE);
            let start = match (piece, low) {
                (0, Some(low)) => low,
                _ => {
                    let gap = if piece == 2 { 0 } else { LONGEST_PIECE };
                    self.divisible += gap + LONGEST_PIECE;
                    self.divisible - LONGEST_PIECE
                }
            };
            append(&mut segments, PhysAddr::new(start), bytes);
            rest -= bytes;
        }
        segments
    }

    /// Takes a run's pages back.
    pub fn put_back(&mut self, segments: &[Segment]) {
        for segment in segments {
            let start = segment.start.get();
            let zones = [&mut self.whole, &mut self.large, &mut self.small, &mut self.low];
            let Some(zone) = zones.into_iter().find(|zone| zone.start <= start) else { continue };
            let pages = (0..segment.bytes.div_ceil(zone.page)).map(|page| start + page * zone.page);
            zone.free.extend(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(segments: &[Segment]) -> Vec<(u64, u64)> {
        segments.iter().map(|segment| (segment.start.get(), segment.bytes)).collect()
    }

    #[test]
    fn small_pages_are_scattered_and_large_ones_aligned_and_apart() {
        let mut book = PageBook::default();
        assert_eq!(
            shape(&book.take(5 * 4096)),
            [
                (0x2_0000_5000, 0x2000),
                (0x2_0000_2000, 0x1000),
                (0x2_0000_0000, 0x1000),
                (0x2_0000_d000, 0x1000),
            ]
        );
        let large = book.take(3 * LARGE_PAGE);
        let expected = [(0x10_00a0_0000, LARGE_PAGE), (0x10_00e0_0000, LARGE_PAGE)];
        assert_eq!(shape(&large)[..2], expected);
        assert_eq!(large.len(), 3);
    }

    #[test]
    fn pages_put_back_are_given_out_again() {
        let mut book = PageBook::default();
        let first = book.take(2 * 4096);
        book.put_back(&first);
        let again = book.take(2 * 4096);
        assert_eq!(shape(&again), [(0x2_0000_6000, 0x1000), (0x2_0000_5000, 0x1000)]);
        let large = book.take(LARGE_PAGE);
        book.put_back(&large);
        assert_eq!(book.take(LARGE_PAGE), large);
        book.reuse_late();
        book.put_back(&again);
        assert_eq!(shape(&book.take(4096)), [(0x2_0000_6000, 0x1000)]);
    }

    #[test]
    fn a_run_in_one_piece_is_aligned_to_its_length_and_comes_back_whole() {
        let mut book = PageBook::default();
        let piece =
            |book: &mut PageBook, bytes| book.take_piece(bytes, PhysAddr::new(u64::MAX)).unwrap();
        let first = piece(&mut book, 5 * 4096);
        assert_eq!(shape(&first), [(0x18_0140_0000, 5 * 4096)]);
        book.put_back(&first);
        assert_eq!(shape(&piece(&mut book, LONGEST_PIECE)), [(0x18_0140_0000, LONGEST_PIECE)]);
        assert_ne!(piece(&mut book, 4096), first);
    }
}
