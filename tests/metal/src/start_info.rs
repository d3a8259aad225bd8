//! What the boot loader has to say: `hvm_start_info` of the PVH boot protocol.
//!
//! Layout: Xen, `xen/include/public/arch-x86/hvm/start_info.h`.

use alloc::string::String;
use alloc::vec::Vec;

use dma_types::PhysAddr;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::memory::layout::Range;

/// The longest command line that is read, in bytes.
const COMMAND_LINE_BYTES: u64 = 4096;
/// The most entries of the memory map that are read.
const MAP_ENTRIES: u32 = 128;

/// The structure itself, version 1.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Raw {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

impl Raw {
    /// "xEn3" with the top bit of the E set.
    const MAGIC: u32 = 0x336e_c578;
}

/// An entry of the memory map.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawRange {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

impl RawRange {
    /// The kind of memory that is ours to use, as in every E820 map.
    const RAM: u32 = 1;
}

/// What the boot loader says, copied out of its memory.
#[derive(Debug)]
pub struct StartInfo {
    /// The words after `-append`.
    pub command_line: String,
    /// Where the ACPI tables begin; 0 when there are none.
    pub rsdp: PhysAddr,
    /// Where there is memory.
    pub memory: Vec<Range>,
}

/// The boot loader's words cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartInfoError {
    /// There is no start info at this address.
    #[error("there is no PVH start info at {0}")]
    Missing(PhysAddr),
    /// It is older than the memory map.
    #[error("PVH start info of version {0} has no memory map")]
    Version(u32),
    /// It points to memory that is not mapped.
    #[error("PVH start info points to {0}, where nothing is mapped")]
    Unmapped(PhysAddr),
}

impl StartInfo {
    /// Reads it at `address`, through `memory`, which gives a copy of so many bytes at an address or
    /// `None` where nothing is mapped.
    pub fn read(
        address: PhysAddr,
        memory: impl Fn(PhysAddr, usize) -> Option<Vec<u8>>,
    ) -> Result<Self, StartInfoError> {
        let bytes = memory(address, size_of::<Raw>()).ok_or(StartInfoError::Missing(address))?;
        let raw = match Raw::read_from_bytes(&bytes) {
            Ok(raw) if raw.magic == Raw::MAGIC => raw,
            _ => return Err(StartInfoError::Missing(address)),
        };
        if raw.version < 1 {
            return Err(StartInfoError::Version(raw.version));
        }
        let unmapped = |at| StartInfoError::Unmapped(PhysAddr::new(at));

        let mut command_line = Vec::new();
        let text = (raw.command_line..).take(COMMAND_LINE_BYTES as usize);
        for at in text.take_while(|_| raw.command_line != 0) {
            let byte = memory(PhysAddr::new(at), 1).ok_or(unmapped(at))?;
            match byte.first() {
                Some(&byte) if byte != 0 => command_line.push(byte),
                _ => break,
            }
        }

        let entries = raw.memory_map_entries.min(MAP_ENTRIES) as usize;
        let map = memory(PhysAddr::new(raw.memory_map), entries * size_of::<RawRange>())
            .ok_or(unmapped(raw.memory_map))?;
        let ranges = map.chunks_exact(size_of::<RawRange>()).flat_map(RawRange::read_from_bytes);
        let ram = ranges.filter(|range| range.kind == RawRange::RAM);
        Ok(Self {
            command_line: String::from_utf8_lossy(&command_line).into_owned(),
            rsdp: PhysAddr::new(raw.rsdp),
            memory: ram
                .map(|range| Range { start: PhysAddr::new(range.start), bytes: range.bytes })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start info at 0x1000, its command line at 0x1038, and its memory map at 0x1040.
    fn example() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend([0x78, 0xc5, 0x6e, 0x33, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend([0x38, 0x10, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0xe0, 0x54, 0x0f, 0, 0, 0, 0, 0]);
        bytes.extend([0x40, 0x10, 0, 0, 0, 0, 0, 0]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"vtd a/b\0");
        bytes.extend([
            0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x0f, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        ]);
        bytes
            .extend([0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<StartInfo, StartInfoError> {
        StartInfo::read(PhysAddr::new(0x1000), |address, count| {
            let start = address.get().checked_sub(0x1000)? as usize;
            Some(bytes.get(start..start.checked_add(count)?)?.to_vec())
        })
    }

    #[test]
    fn the_command_line_the_rsdp_and_the_memory_are_read() {
        let info = read(&example()).unwrap();
        assert_eq!(info.command_line, "vtd a/b");
        assert_eq!(info.rsdp, PhysAddr::new(0xf54e0));
        assert_eq!(info.memory, [Range { start: PhysAddr::new(0x10_0000), bytes: 0xff0_0000 }]);
    }

    #[test]
    fn r5_a_broken_start_info_is_refused() {
        let mut bytes = example();
        bytes[0] = 0;
        assert!(matches!(read(&bytes), Err(StartInfoError::Missing(_))));
        let mut bytes = example();
        bytes[4] = 0;
        assert!(matches!(read(&bytes), Err(StartInfoError::Version(0))));
        for length in [0x3a, 0x50] {
            assert!(matches!(read(&example()[..length]), Err(StartInfoError::Unmapped(_))));
        }
    }
}
