//! I/O addresses that are never memory, whatever is mapped there, besides
//! [`INTERRUPT_RANGE`](crate::iova::INTERRUPT_RANGE).

use dma_types::Iova;

use crate::iova::IovaRange;

/// What HyperTransport keeps for itself: interrupts, system management messages, port I/O and configuration. A
/// unit does not translate such a request but judges it by the device's table entry. 12 GiB below 1 TiB.
pub const HYPERTRANSPORT: IovaRange = IovaRange::new(Iova::new(0xfd_0000_0000), 0x3_0000_0000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_ends_where_the_spec_says() {
        assert_eq!(HYPERTRANSPORT.last(), Some(Iova::new(0xff_ffff_ffff)));
    }
}
