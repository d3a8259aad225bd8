//! What a unit must know of what firmware says.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use dma_types::{PciAddress, PhysAddr, SourceId};

use super::registers::{Control, ExtendedFeatures, InvalidationTimeout};
use crate::acpi::ivrs::unit::{Ivhd, IvhdFlags, Reported};
use crate::acpi::ivrs::{DteSettings, IvInfo};

/// What firmware says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSpec {
    /// Where its registers are: a multiple of 16 KiB.
    pub base: PhysAddr,
    /// The PCI segment that it serves.
    pub segment: u16,
    /// The PCI function that it is.
    pub function: PciAddress,
    /// Where its capability starts in that function's configuration space.
    pub capability_offset: u16,
    /// What firmware asks to be set in its control register.
    pub flags: IvhdFlags,
    /// The image of its extended feature register, if firmware's table has one.
    pub efr_image: Option<ExtendedFeatures>,
    /// What firmware asks to be set in the device table entries of some requesters. Of several settings for
    /// one, the last holds.
    pub settings: Vec<(RangeInclusive<SourceId>, DteSettings)>,
}

impl UnitSpec {
    /// What this block of a table says, with what the table says of all units.
    pub fn new(ivhd: &Ivhd, info: IvInfo) -> Self {
        let efr_image = match ivhd.reported {
            Reported::Registers { extended, .. } if info.extended_features() => {
                Some(ExtendedFeatures::from_bits(extended))
            }
            Reported::Registers { .. } | Reported::Features(_) => None,
        };
        Self {
            base: ivhd.registers,
            segment: ivhd.segment,
            function: PciAddress::from_source(ivhd.segment, ivhd.function),
            capability_offset: ivhd.capability,
            flags: ivhd.flags,
            efr_image,
            settings: ivhd.settings().collect(),
        }
    }

    /// The control register as the unit is to run with a device table in this many segments: both rings,
    /// translation, and what firmware asks for. It reads its tables by the processors' caches in any case,
    /// for we flush nothing. Its event log interrupts if it can (`event_interrupt`); completion waits never do.
    pub(super) const fn control(&self, segments_order: u8, event_interrupt: bool) -> Control {
        Control::new()
            .with_translation(true)
            .with_tunnel(self.flags.ht_tunnel())
            .with_event_log(true)
            .with_event_interrupt(event_interrupt)
            .with_invalidation_timeout(InvalidationTimeout::Seconds1)
            .with_pass_posted_writes(self.flags.pass_posted_writes())
            .with_responses_pass_posted_writes(self.flags.responses_pass_posted_writes())
            .with_coherent(true)
            .with_isochronous(self.flags.isochronous())
            .with_command_buffer(true)
            .with_segments_order(segments_order)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::spec;
    use super::*;

    #[test]
    fn the_control_register_is_as_firmware_asks_and_the_event_log_alone_interrupts() {
        let control = |flags| {
            let spec = UnitSpec { flags: IvhdFlags::from_bits(flags), ..spec() };
            spec.control(0, false).into_bits()
        };
        assert_eq!(control(0), 0x1485);
        assert_eq!(control(0x01), 0x1487);
        assert_eq!(control(0x02), 0x1585);
        assert_eq!(control(0x04), 0x1685);
        assert_eq!(control(0x08), 0x1c85);
        // Device caches, coherence, prefetching and page requests change nothing.
        assert_eq!(control(0xf0), 0x1485);
        assert_eq!(spec().control(3, false).into_bits(), 0xc_0000_1485);
        assert_eq!(spec().control(0, true).into_bits(), 0x148d);
    }
}
