//! A function as pcid describes it.
//!
//! A request is one write. An answer is its length as 8 bytes, then as many bytes. Both are bincode 1's
//! default encoding: little-endian, integers in their full width, a 4-byte number for which variant it is.

use dma_types::PciAddress;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The request for a function's configuration; it has no fields.
pub const REQUEST_CONFIG: [u8; 4] = 1u32.to_le_bytes();

/// The variant of the answer to [`REQUEST_CONFIG`].
const CONFIG: u32 = 1;

/// Where the configuration in the answer to [`REQUEST_CONFIG`] starts. The BARs follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ConfigStart {
    variant: U32,
    segment: U16,
    bus: u8,
    device: u8,
    function: u8,
}

/// A function as pcid describes it, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which function it is.
    pub address: PciAddress,
    /// The bytes of BAR 0, if that is memory.
    pub bar_bytes: Option<u64>,
}

impl Config {
    /// Reads an answer to [`REQUEST_CONFIG`]. `None` if it is none. What is behind the first BAR is not
    /// looked at.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let (start, rest) = ConfigStart::read_from_prefix(answer).ok()?;
        if start.variant.get() != CONFIG {
            return None;
        }
        let address =
            PciAddress::new(start.segment.get(), start.bus, start.device, start.function)?;
        let (kind, rest) = U32::read_from_prefix(rest).ok()?;
        let bar_bytes = match kind.get() {
            MEMORY_32 => <[U32; 2]>::read_from_prefix(rest).ok()?.0[1].get().into(),
            MEMORY_64 => <[U64; 2]>::read_from_prefix(rest).ok()?.0[1].get(),
            NO_BAR | PORTS => return Some(Self { address, bar_bytes: None }),
            _ => return None,
        };
        Some(Self { address, bar_bytes: Some(bar_bytes) })
    }
}

/// The variants of a BAR. Memory has address and size.
const NO_BAR: u32 = 0;
const MEMORY_32: u32 = 1;
const MEMORY_64: u32 = 2;
const PORTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Variant 1; segment 0, bus 0, device 2, function 0; the BARs follow.
    const START: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 2, 0];

    fn answer(bars: &[u8]) -> Vec<u8> {
        [&START[..], bars].concat()
    }

    #[test]
    fn the_request_is_the_number_of_its_variant() {
        assert_eq!(REQUEST_CONFIG, [1, 0, 0, 0]);
    }

    #[test]
    fn an_answer_tells_address_and_size() {
        let address = PciAddress::new(0, 0, 2, 0).unwrap();
        // Memory32 at 0xfea00000, 1 MiB, and five that are none.
        let mut bars = [1, 0, 0, 0, 0, 0, 0xa0, 0xfe, 0, 0, 0x10, 0].to_vec();
        bars.extend([0; 20]);
        let expected = Config { address, bar_bytes: Some(1 << 20) };
        assert_eq!(Config::parse(&answer(&bars)), Some(expected));
        // Memory64 at 2^32, 4 KiB.
        let bars = [2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
        let expected = Config { address, bar_bytes: Some(4096) };
        assert_eq!(Config::parse(&answer(&bars)), Some(expected));
        let expected = Config { address, bar_bytes: None };
        assert_eq!(Config::parse(&answer(&[0, 0, 0, 0])), Some(expected));
    }

    #[test]
    fn r5_an_answer_that_makes_no_sense_is_none() {
        let whole = answer(&[1, 0, 0, 0, 0, 0, 0xa0, 0xfe, 0, 0, 0x10, 0]);
        for length in 0..whole.len() {
            assert_eq!(Config::parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(Config::parse(&answer(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), None);
        let mut error = whole.clone();
        error[0] = 6;
        assert_eq!(Config::parse(&error), None);
        let mut device_32 = whole;
        device_32[7] = 32;
        assert_eq!(Config::parse(&device_32), None);
    }
}
