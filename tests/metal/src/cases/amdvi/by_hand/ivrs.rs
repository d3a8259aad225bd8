//! What the firmware says of the unit.

use dma_types::{PciAddress, PhysAddr, SourceId};

use crate::harness::{Failure, Outcome};
use crate::require;

/// What the IVRS says of its first unit (IVHD).
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The unit's own PCI function.
    pub function: PciAddress,
    /// Where that function's capability is, in its configuration space.
    pub capability: u16,
    /// Where the registers are.
    pub base: PhysAddr,
}

/// The first unit's description in this IVRS.
pub fn first_unit(ivrs: &[u8]) -> Outcome<Described> {
    const BLOCKS: usize = 48;
    const FUNCTION: usize = 4;
    const CAPABILITY: usize = 6;
    const BASE: usize = 8;
    const SEGMENT: usize = 16;
    let first = ivrs.get(BLOCKS..).unwrap_or_default();
    let kind = first.first().copied().unwrap_or_default();
    require!(matches!(kind, 0x10 | 0x11 | 0x40), "the IVRS begins with block {kind:#x}");
    let word = |at: usize| first.get(at..)?.first_chunk::<2>().map(|it| u16::from_le_bytes(*it));
    let described = || {
        let base = u64::from_le_bytes(*first.get(BASE..)?.first_chunk::<8>()?);
        let function = PciAddress::from_source(word(SEGMENT)?, SourceId::new(word(FUNCTION)?));
        Some(Described { function, capability: word(CAPABILITY)?, base: PhysAddr::new(base) })
    };
    described().ok_or(Failure("the IVRS's first block is cut off".into()))
}
