//! At which physical addresses a buffer run is put.

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;

/// The length of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// The longest piece that is given in one: as on Redox.
pub const LONGEST_PIECE: u64 = 4 << 20;

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
}

impl Zone {
    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            let (group, member) = (self.fresh / 4, self.fresh % 4);
            self.fresh += 1;
            self.start + (8 * group + self.pattern[member as usize]) * self.page
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
}

impl Default for PageBook {
    fn default() -> Self {
        let zone = |start, page, pattern| Zone { start, page, pattern, free: Vec::new(), fresh: 0 };
        Self {
            small: zone(0x2_0000_0000, PAGE_SIZE, [5, 6, 2, 0]),
            large: zone(0x10_0000_0000, LARGE_PAGE, [5, 7, 3, 1]),
            whole: zone(0x18_0000_0000, LONGEST_PIECE, [5, 7, 3, 1]),
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
            let start = PhysAddr::new(zone.take());
            match segments.last_mut() {
                Some(last) if last.start.checked_add(last.bytes) == Some(start) => {
                    last.bytes += zone.page;
                }
                _ => segments.push(Segment { start, bytes: zone.page }),
            }
        }
        segments
    }

    /// A piece for a run of this many bytes, at most [`LONGEST_PIECE`].
    pub fn take_piece(&mut self, bytes: u64) -> Vec<Segment> {
        vec![Segment { start: PhysAddr::new(self.whole.take()), bytes }]
    }

    /// Takes a run's pages back.
    pub fn put_back(&mut self, segments: &[Segment]) {
        for segment in segments {
            let start = segment.start.get();
            let zones = [&mut self.whole, &mut self.large, &mut self.small];
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
    }

    #[test]
    fn a_run_in_one_piece_is_aligned_to_its_length_and_comes_back_whole() {
        let mut book = PageBook::default();
        let first = book.take_piece(5 * 4096);
        assert_eq!(shape(&first), [(0x18_0140_0000, 5 * 4096)]);
        book.put_back(&first);
        assert_eq!(shape(&book.take_piece(LONGEST_PIECE)), [(0x18_0140_0000, LONGEST_PIECE)]);
        assert_ne!(book.take_piece(4096), first);
    }
}
