//! PCI functions as text: what `lspci -xxxx` prints, and `iommuctl capture` writes.
//!
//! ```text
//! 0000:00:02.0 Unclassified device [00ff]: Device 1234:11e8 (rev 10)
//! 00: 34 12 e8 11 07 00 10 00 10 00 ff 00 00 00 00 00
//! 10: 00 00 00 fd 00 00 00 00 00 00 00 00 00 00 00 00
//! ```
//!
//! The segment may be left out, as lspci does where there is only one. Indented lines, which `lspci -v` adds,
//! are passed over. How much of a function is there depends on how lspci was called (`-x` 64 bytes, `-xxx` 256,
//! `-xxxx` all) and on who called it: Linux shows 64 bytes to users other than root.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use dma_types::PciAddress;
use iommu_engine::platform::ConfigSpace;
use thiserror::Error;

/// The size of a function's configuration space (PCI Express 7.2).
pub const WHOLE: usize = 4096;
/// Where the extended capabilities start, and what there is of a conventional PCI function.
pub const CONVENTIONAL: usize = 256;

/// The most bytes in a line.
const LINE: usize = 16;

/// The configuration space of a machine's functions, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    functions: BTreeMap<PciAddress, Vec<u8>>,
    /// How many functions were left out because firmware cannot mean them: Linux numbers segments of its own
    /// making, as those behind Intel's VMD, from 10000 on.
    pub beyond_segments: usize,
}

/// A text is no dump.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}: {fault}")]
pub struct DumpError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub fault: DumpFault,
}

/// What is wrong with a line of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DumpFault {
    /// It is nothing that lspci writes.
    #[error(
        "this is neither a function (00:1f.0 …) nor bytes of one (00: 86 80 …): the file has to be what \
         `lspci -xxxx` prints"
    )]
    Strange,
    /// Bytes, and no function above.
    #[error("there is no function that these bytes could be of")]
    NoFunction,
    /// A function for the second time.
    #[error("{0} is there twice")]
    Twice(PciAddress),
    /// A function of which nothing is known.
    #[error("there are no bytes of this function: call lspci with -xxxx")]
    NoBytes,
    /// A gap, or an overlap.
    #[error("these bytes start at {found:#x}, and those before end at {expected:#x}")]
    NotNext {
        /// Where they should start.
        expected: usize,
        /// Where they do.
        found: usize,
    },
    /// More than a function has.
    #[error("a function has no more than 4096 bytes")]
    TooMany,
    /// Not two hexadecimal digits, or too many of them.
    #[error("a line has up to 16 bytes, each of two hexadecimal digits")]
    Byte,
    /// No function at all.
    #[error("there is no PCI function in this file")]
    Empty,
    /// Not text.
    #[error("this is not text")]
    NotText,
}

impl Dump {
    /// Reads a dump.
    ///
    /// # Errors
    ///
    /// [`DumpError`], where the text is none.
    pub fn parse(text: &[u8]) -> Result<Self, DumpError> {
        let mut dump = Self::default();
        // The function that bytes are of, and the line where it was named.
        let mut open: Option<(Vec<u8>, Option<PciAddress>, usize)> = None;
        let mut number = 0;
        for line in text.split(|byte| *byte == b'\n') {
            number += 1;
            let error = |fault| DumpError { line: number, fault };
            // A device's name may be in any encoding. What matters has ASCII alone.
            let line = line.trim_ascii_end();
            if line.is_empty() || line.first().is_some_and(|first| b" \t#".contains(first)) {
                continue;
            }
            if line.contains(&0) {
                return Err(error(DumpFault::NotText));
            }
            let (word, rest) =
                line.split_at(line.iter().position(|it| *it == b' ').unwrap_or(line.len()));
            let word = core::str::from_utf8(word).map_err(|_| error(DumpFault::Strange))?;
            if let Some(offset) = word.strip_suffix(':') {
                let offset = hexadecimal(offset, 2..=3).ok_or(error(DumpFault::Strange))?;
                let (bytes, ..) = open.as_mut().ok_or(error(DumpFault::NoFunction))?;
                add_bytes(bytes, offset as usize, rest).map_err(error)?;
            } else {
                let address = parse_address(word).ok_or(error(DumpFault::Strange))?;
                dump.close(open.take())?;
                open = Some((Vec::new(), address, number));
            }
        }
        dump.close(open)?;
        if dump.functions.is_empty() {
            return Err(DumpError { line: number, fault: DumpFault::Empty });
        }
        Ok(dump)
    }

    fn close(
        &mut self,
        open: Option<(Vec<u8>, Option<PciAddress>, usize)>,
    ) -> Result<(), DumpError> {
        let Some((bytes, address, line)) = open else { return Ok(()) };
        if bytes.is_empty() {
            return Err(DumpError { line, fault: DumpFault::NoBytes });
        }
        let Some(address) = address else {
            self.beyond_segments += 1;
            return Ok(());
        };
        match self.functions.entry(address) {
            Entry::Vacant(place) => drop(place.insert(bytes)),
            Entry::Occupied(_) => {
                return Err(DumpError { line, fault: DumpFault::Twice(address) });
            }
        }
        Ok(())
    }

    /// Adds a function; what was known of it before is forgotten. What is beyond [`WHOLE`] is left out.
    pub fn insert(&mut self, function: PciAddress, mut bytes: Vec<u8>) {
        bytes.truncate(WHOLE);
        self.functions.insert(function, bytes);
    }

    /// The functions, each with its bytes.
    pub fn functions(&self) -> impl Iterator<Item = (PciAddress, &[u8])> {
        self.functions.iter().map(|(address, bytes)| (*address, bytes.as_slice()))
    }

    /// The text of a dump, as [`parse`](Self::parse) reads it and `lspci -F` does.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (address, bytes) in self.functions() {
            let id = |at: usize| match bytes.get(at..at + 2) {
                Some(&[low, high]) => u16::from_le_bytes([low, high]),
                _ => 0xffff,
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{address} {:04x}:{:04x}", id(0), id(2));
            for (line, bytes) in bytes.chunks(LINE).enumerate() {
                let _ = write!(text, "{:02x}:", line * LINE);
                for byte in bytes {
                    let _ = write!(text, " {byte:02x}");
                }
                text.push('\n');
            }
            text.push('\n');
        }
        text
    }
}

impl ConfigSpace for Dump {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        let at = usize::from(offset);
        let bytes = self.functions.get(&function).and_then(|bytes| bytes.get(at..at + 4));
        // What is not known reads as what is absent.
        let dword = bytes.and_then(|bytes| bytes.try_into().ok());
        dword.map_or(u32::MAX, u32::from_le_bytes)
    }

    fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {}
}

/// The address that a function's line begins with. `Some(None)`: it is one, in a segment that only Linux has.
fn parse_address(word: &str) -> Option<Option<PciAddress>> {
    let (rest, function) = word.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    let segment = hexadecimal(segment, 4..=8)?;
    let bus = hexadecimal(bus, 2..=2)?;
    let device = hexadecimal(device, 2..=2)?;
    let function = hexadecimal(function, 1..=1)?;
    // The segment comes last: what is wrong with the others is wrong in any.
    let address = |segment| PciAddress::new(segment, bus as u8, device as u8, function as u8);
    address(0)?;
    Some(u16::try_from(segment).ok().and_then(address))
}

/// A hexadecimal number of so many digits, at most eight.
fn hexadecimal(text: &str, digits: core::ops::RangeInclusive<usize>) -> Option<u32> {
    let sound = digits.contains(&text.len()) && text.bytes().all(|it| it.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| sound)
}

fn add_bytes(bytes: &mut Vec<u8>, offset: usize, text: &[u8]) -> Result<(), DumpFault> {
    if offset != bytes.len() {
        return Err(DumpFault::NotNext { expected: bytes.len(), found: offset });
    }
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let start = bytes.len();
    for word in words {
        let word = core::str::from_utf8(word).map_err(|_| DumpFault::Byte)?;
        let byte = hexadecimal(word, 2..=2).ok_or(DumpFault::Byte)?;
        if bytes.len() == WHOLE {
            return Err(DumpFault::TooMany);
        }
        bytes.push(byte as u8);
    }
    let added = bytes.len() - start;
    if (1..=LINE).contains(&added) { Ok(()) } else { Err(DumpFault::Byte) }
}

#[cfg(test)]
#[path = "tests/dump.rs"]
mod tests;
