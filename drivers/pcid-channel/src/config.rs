//! A function as pcid describes it.
//!
//! A request is one write. An answer is its length as 8 bytes, then as many bytes. Both are bincode 1's
//! default encoding: little-endian, integers in their full width, a 4-byte number for which variant it is.

use dma_types::{PciAddress, PhysAddr};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The request for a function's configuration; it has no fields.
pub const REQUEST_CONFIG: [u8; 4] = 1u32.to_le_bytes();

/// The variant of the answer to [`REQUEST_CONFIG`].
const CONFIG: u32 = 1;

/// How many BARs a function has.
pub const BARS: usize = 6;

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
    /// Each BAR that is memory, as it was when pcid started (base 9e128703, `drivers/pcid/src/main.rs`:
    /// `handle_parsed_header`), before there was any driver. A BAR of 64 bits is the first of its two.
    pub bars: [Option<Bar>; BARS],
}

/// A BAR that is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Where it starts.
    pub start: PhysAddr,
    /// How long it is.
    pub bytes: u64,
}

impl Config {
    /// Reads an answer to [`REQUEST_CONFIG`]. `None` if it is none. What is behind the BARs is not looked at.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let (start, rest) = ConfigStart::read_from_prefix(answer).ok()?;
        if start.variant.get() != CONFIG {
            return None;
        }
        let address =
            PciAddress::new(start.segment.get(), start.bus, start.device, start.function)?;
        let mut bars = [None; BARS];
        let mut rest = rest;
        for found in &mut bars {
            (*found, rest) = bar(rest)?;
        }
        Some(Self { address, bars })
    }

    /// The bytes of each BAR that is memory.
    pub fn bar_bytes(&self) -> [Option<u64>; BARS] {
        self.bars.map(|bar| bar.map(|bar| bar.bytes))
    }
}

/// One BAR, if it is memory, and what follows it.
fn bar(answer: &[u8]) -> Option<(Option<Bar>, &[u8])> {
    let (kind, rest) = U32::read_from_prefix(answer).ok()?;
    match kind.get() {
        NO_BAR => Some((None, rest)),
        MEMORY_32 => {
            let ([start, bytes], rest) = <[U32; 2]>::read_from_prefix(rest).ok()?;
            let start = PhysAddr::new(start.get().into());
            Some((Some(Bar { start, bytes: bytes.get().into() }), rest))
        }
        MEMORY_64 => {
            let ([start, bytes], rest) = <[U64; 2]>::read_from_prefix(rest).ok()?;
            let start = PhysAddr::new(start.get());
            Some((Some(Bar { start, bytes: bytes.get() }), rest))
        }
        PORTS => Some((None, U16::read_from_prefix(rest).ok()?.1)),
        _ => None,
    }
}

/// The request for the word of configuration space at an offset.
pub fn request_word(offset: u16) -> [u8; 6] {
    let mut request = [0; 6];
    let (variant, argument) = request.split_at_mut(4);
    variant.copy_from_slice(&READ_CONFIG.to_le_bytes());
    argument.copy_from_slice(&offset.to_le_bytes());
    request
}

/// Reads an answer to [`request_word`]. `None` if it is none.
pub fn parse_word(answer: &[u8]) -> Option<u32> {
    let [variant, word] = <[U32; 2]>::read_from_bytes(answer).ok()?;
    (variant.get() == WORD).then_some(word.get())
}

/// The variant of the request for a word of configuration space, and of its answer.
const READ_CONFIG: u32 = 7;
const WORD: u32 = 9;

/// The variants of a BAR. Memory has address and size, in 32 or 64 bits each; ports have the first one's number, in 16.
const NO_BAR: u32 = 0;
const MEMORY_32: u32 = 1;
const MEMORY_64: u32 = 2;
const PORTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Variant 1; segment 0, bus 0, device 2, function 0; the BARs follow.
    const START: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 2, 0];

    /// A BAR: Memory32 at 0xfea00000, 1 MiB.
    const MEMORY: [u8; 12] = [1, 0, 0, 0, 0, 0, 0xa0, 0xfe, 0, 0, 0x10, 0];

    fn answer(bars: &[u8]) -> Vec<u8> {
        [&START[..], bars].concat()
    }

    #[test]
    fn a_word_of_configuration_space_is_asked_for_and_given() {
        assert_eq!(request_word(0x34), [7, 0, 0, 0, 0x34, 0]);
        assert_eq!(parse_word(&[9, 0, 0, 0, 0xf4, 0x1a, 0x42, 0x10]), Some(0x1042_1af4));
        for answer in [&[][..], &[9, 0, 0, 0, 1, 2, 3], &[6, 0, 0, 0, 1, 2, 3, 4]] {
            assert_eq!(parse_word(answer), None);
        }
    }

    #[test]
    fn the_request_is_the_number_of_its_variant() {
        assert_eq!(REQUEST_CONFIG, [1, 0, 0, 0]);
    }

    #[test]
    fn an_answer_tells_address_and_size() {
        let address = PciAddress::new(0, 0, 2, 0).unwrap();
        // Memory32 at 0xfea00000, 1 MiB; ports from 0xc000 on; none; Memory64 at 2^32, 4 KiB; two that are none.
        let mut bars = MEMORY.to_vec();
        bars.extend([3, 0, 0, 0, 0, 0xc0]);
        bars.extend([0; 4]);
        bars.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
        bars.extend([0; 8]);
        let found = Config::parse(&answer(&bars)).unwrap();
        let bar = |start, bytes| Some(Bar { start: PhysAddr::new(start), bytes });
        let first = bar(0xfea0_0000, 1 << 20);
        let expected = [first, None, None, bar(1 << 32, 4096), None, None];
        assert_eq!(found, Config { address, bars: expected });
        assert_eq!(found.bar_bytes(), [Some(1 << 20), None, None, Some(4096), None, None]);
        let expected = Config { address, bars: [None; 6] };
        assert_eq!(Config::parse(&answer(&[0; 24])), Some(expected));
    }

    #[test]
    fn r5_an_answer_that_makes_no_sense_is_none() {
        let whole = answer(&[&MEMORY[..], &[0; 20]].concat());
        for length in 0..whole.len() {
            assert_eq!(Config::parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(Config::parse(&answer(&[&[4, 0, 0, 0][..], &[0; 28]].concat())), None);
        let mut error = whole.clone();
        error[0] = 6;
        assert_eq!(Config::parse(&error), None);
        let mut device_32 = whole;
        device_32[7] = 32;
        assert_eq!(Config::parse(&device_32), None);
    }
}
