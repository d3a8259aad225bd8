//! Where the registers of PCI functions are, as the kernel has it in its records.

use std::fs;
use std::path::Path;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::platform::Segment;

use super::config_space::FUNCTIONS;

/// Memory (Linux, `include/linux/ioport.h`, `IORESOURCE_MEM`), that has an address (`IORESOURCE_UNSET` otherwise).
const MEMORY: u64 = 0x200;
const UNSET: u64 = 0x2000_0000;

/// The memory BAR of this number: a line of the file `resource`, which the kernel writes when it gives addresses out
/// (Linux, `Documentation/PCI/sysfs-pci.rst`).
pub(super) fn bar(function: PciAddress, number: u8) -> Option<Segment> {
    let path = Path::new(FUNCTIONS).join(function.to_string()).join("resource");
    let text = fs::read_to_string(path).ok()?;
    text.lines().nth(number.into()).and_then(segment)
}

/// A line `0x00000000fea00000 0x00000000feafffff 0x0000000000040200`: first, last, flags.
fn segment(line: &str) -> Option<Segment> {
    let mut numbers = line.split(' ').map(|word| {
        word.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
    });
    let (first, last, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let bytes = last.checked_sub(first)?.checked_add(1)?;
    (flags & (MEMORY | UNSET) == MEMORY).then_some(Segment { start: PhysAddr::new(first), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_memory_with_an_address_or_nothing() {
        let edu = Segment { start: PhysAddr::new(0xfea0_0000), bytes: 1 << 20 };
        let line = "0x00000000fea00000 0x00000000feafffff 0x0000000000040200";
        assert_eq!(segment(line), Some(edu));
        for none in [
            "",
            "0x0000000000000000 0x0000000000000000 0x0000000000000000",
            "0x000000000000c000 0x000000000000c03f 0x0000000000040101",
            "0x0000000000000000 0x00000000000fffff 0x0000000020040200",
            "0x00000000feafffff 0x00000000fea00000 0x0000000000040200",
            "0x0000000000000000 0xffffffffffffffff 0x0000000000040200",
            "fea00000 feafffff 40200",
        ] {
            assert_eq!(segment(none), None, "{none}");
        }
    }
}
