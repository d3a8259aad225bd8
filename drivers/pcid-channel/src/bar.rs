//! Where in the channel a BAR is mapped.

/// How memory is to be cached, in the offset of an mmap of the channel.
const UNCACHED: u64 = 1;

/// The offset at which a BAR is mapped, uncached: the BAR's number in bits 63:61, the caching in 60:59. pcid does
/// not look at the length, which must be the BAR's.
pub const fn map_offset(bar: u32) -> u64 {
    (bar as u64) << 61 | UNCACHED << 59
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_offset_names_bar_and_caching() {
        assert_eq!(map_offset(0), 0x0800_0000_0000_0000);
        assert_eq!(map_offset(5), 0xa800_0000_0000_0000);
    }
}
