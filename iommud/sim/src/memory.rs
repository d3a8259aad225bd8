//! Simulated physical memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Physical memory as everything on the bus sees it.
///
/// It is shared with CPUs that write while hardware reads, hence `&self` throughout. Words are
/// little-endian.
pub trait Memory {
    /// Fills `out` from `address` on. `false` when some of it is no memory; `out` is then unspecified.
    fn read(&self, address: u64, out: &mut [u8]) -> bool;

    /// Writes `data` from `address` on. `false` when some of it is no memory; what was written of it
    /// is then unspecified.
    fn write(&self, address: u64, data: &[u8]) -> bool;

    /// The 64-bit word at `address`, or `None` when there is no memory.
    fn read64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Writes the 64-bit word at `address`; `false` when there is no memory.
    fn write64(&self, address: u64, value: u64) -> bool {
        self.write(address, &value.to_le_bytes())
    }
}

impl<M: Memory + ?Sized> Memory for Arc<M> {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        (**self).read(address, out)
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        (**self).write(address, data)
    }
}

/// Copies bytes out of words, from byte `offset` on. `false`, and nothing copied, past the end.
pub fn copy_from_words(words: &[AtomicU64], offset: u64, out: &mut [u8]) -> bool {
    let Some(range) = byte_range(words, offset, out.len()) else { return false };
    let mut at = range.start;
    let mut rest = out;
    while !rest.is_empty() {
        let bytes = words[at / 8].load(Ordering::Acquire).to_le_bytes();
        let piece = &bytes[at % 8..];
        let length = piece.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&piece[..length]);
        rest = later;
        at += length;
    }
    true
}

/// Copies bytes into words, from byte `offset` on. `false`, and nothing copied, past the end.
///
/// Whole words are stored at once; in a word of which only a part is written, the other bytes stay
/// what a CPU makes of them meanwhile.
pub fn copy_to_words(words: &[AtomicU64], offset: u64, data: &[u8]) -> bool {
    let Some(range) = byte_range(words, offset, data.len()) else { return false };
    let mut at = range.start;
    let mut rest = data;
    while !rest.is_empty() {
        let start = at % 8;
        let length = (8 - start).min(rest.len());
        let (now, later) = rest.split_at(length);
        let word = &words[at / 8];
        if let Ok(bytes) = <[u8; 8]>::try_from(now) {
            word.store(u64::from_le_bytes(bytes), Ordering::Release);
        } else {
            let mut old = word.load(Ordering::Acquire);
            loop {
                let mut bytes = old.to_le_bytes();
                bytes[start..start + length].copy_from_slice(now);
                let new = u64::from_le_bytes(bytes);
                match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(current) => old = current,
                }
            }
        }
        rest = later;
        at += length;
    }
    true
}

/// The bytes `offset..offset + length` of these words, or `None` past their end.
fn byte_range(words: &[AtomicU64], offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length)?;
    (end <= words.len().checked_mul(8)?).then_some(start..end)
}

/// Memory on the heap, for tests: a few ranges of addresses.
#[derive(Debug, Default)]
pub struct HeapMemory {
    ranges: Vec<(u64, Box<[AtomicU64]>)>,
}

impl HeapMemory {
    /// Memory of zeroes at each `(start, bytes)`. Starts and lengths must be multiples of 8, and the
    /// ranges must not overlap.
    pub fn new(ranges: &[(u64, usize)]) -> Self {
        let ranges = ranges
            .iter()
            .map(|&(start, bytes)| (start, (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()))
            .collect();
        Self { ranges }
    }

    /// The words from `address` to the end of its range, and the offset in the first of them.
    fn find(&self, address: u64) -> Option<(&[AtomicU64], u64)> {
        self.ranges.iter().find_map(|(start, words)| {
            let offset = address.checked_sub(*start)?;
            (offset < words.len() as u64 * 8).then_some((&**words, offset))
        })
    }
}

impl Memory for HeapMemory {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        self.find(address).is_some_and(|(words, offset)| copy_from_words(words, offset, out))
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.find(address).is_some_and(|(words, offset)| copy_to_words(words, offset, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cross_words_and_leave_their_neighbours() {
        let memory = HeapMemory::new(&[(0x1000, 32)]);
        assert!(memory.write64(0x1000, u64::MAX) && memory.write64(0x1008, u64::MAX));
        assert!(memory.write(0x1006, &[1, 2, 3]));
        assert_eq!(memory.read64(0x1000), Some(0x0201_ffff_ffff_ffff));
        assert_eq!(memory.read64(0x1008), Some(0xffff_ffff_ffff_ff03));
        let mut out = [0; 3];
        assert!(memory.read(0x1006, &mut out));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn outside_its_ranges_there_is_no_memory() {
        let memory = HeapMemory::new(&[(0x1000, 16)]);
        assert!(!memory.write(0x100f, &[0, 0]));
        assert!(!memory.write(0xfff, &[0]));
        assert_eq!(memory.read64(u64::MAX - 3), None);
        assert_eq!(memory.read64(0x1010), None);
    }
}
