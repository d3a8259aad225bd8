//! Which physical memory is RAM.

use std::{fs, io};

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;

/// What the kernel calls memory that it uses (Linux, `Documentation/admin-guide/kernel-parameters`, `memmap`).
const RAM: &str = "System RAM";

/// The RAM of the machine, as the kernel knows it: without what firmware keeps and what the command line sets
/// aside.
pub fn system_ram() -> io::Result<Vec<Segment>> {
    Ok(fs::read_to_string("/proc/iomem")?.lines().filter_map(segment).collect())
}

/// A line `00100000-0effffff : System RAM`. To readers who are not root the kernel shows zeroes.
fn segment(line: &str) -> Option<Segment> {
    let (range, name) = line.split_once(" : ")?;
    // Indented lines are parts of the line above.
    if name != RAM || line.starts_with(' ') {
        return None;
    }
    let (first, last) = range.split_once('-')?;
    let first = u64::from_str_radix(first, 16).ok()?.checked_next_multiple_of(PAGE_SIZE)?;
    let end = u64::from_str_radix(last, 16).ok()?.checked_add(1)? & !(PAGE_SIZE - 1);
    let bytes = end.checked_sub(first).filter(|bytes| *bytes > 0)?;
    Some(Segment { start: PhysAddr::new(first), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_of_ram_are_read_and_nothing_else() {
        let ram = |start, bytes| Some(Segment { start: PhysAddr::new(start), bytes });
        assert_eq!(segment("00001000-0009fbff : System RAM"), ram(0x1000, 0x9e000));
        assert_eq!(segment("100000000-17fffffff : System RAM"), ram(1 << 32, 2 << 30));
        assert_eq!(segment("0009fc00-0009ffff : Reserved"), None);
        assert_eq!(segment("  01000000-01e00fff : System RAM"), None);
        assert_eq!(segment("00000000-00000000 : System RAM"), None);
        assert_eq!(segment("nonsense : System RAM"), None);
        assert_eq!(segment("ffffffffffffffff-ffffffffffffffff : System RAM"), None);
    }
}
