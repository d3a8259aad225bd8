//! The rig sees what VT-d does: registers, translation and faults, with structures made by hand.
//!
//! None of the engine is in this, and that is the point: when the engine's cases fail, these tell whether
//! it is the machine, and when they pass, these tell that a fault would have been seen.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`by_hand`] | the few registers and entries, from the specification's text |
//! | [`translation`] | a domain of one page, and who may do what in it |

pub mod by_hand;
pub mod translation;

use iommu_engine::platform::Platform;

use self::by_hand::Unit;
use self::translation::blocked_dma_is_reported_with_device_address_and_direction;
use crate::harness::{Context, Failure, Outcome, Suite};
use crate::{cases, require};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "vtd",
    cases: cases![
        firmware_tells_of_a_unit,
        the_unit_answers_sanely,
        blocked_dma_is_reported_with_device_address_and_direction,
    ],
};

fn firmware_tells_of_a_unit(context: &mut Context) -> Outcome {
    let dmar = context.platform().acpi_table(*b"DMAR")?.ok_or(Failure("no DMAR".into()))?;
    let sum = dmar.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    require!(dmar.starts_with(b"DMAR") && sum == 0, "the DMAR's checksum is off by {sum}");
    let base = by_hand::first_unit(&dmar)?;
    require!(base.is_aligned(4096) && base.get() != 0, "the first unit is at {base}");
    Ok(())
}

fn the_unit_answers_sanely(context: &mut Context) -> Outcome {
    let unit = Unit::find(context.platform())?;
    let (version, capabilities) = (unit.version(context.platform()), unit.capabilities);
    require!(version.major() == 1, "version {}.{}", version.major(), version.minor());
    let levels = unit.levels();
    require!(!levels.is_empty(), "no page table of 3 to 5 levels: {capabilities:?}");
    require!(capabilities.domains() <= 6, "domain ids: {capabilities:?}");
    require!(capabilities.fault_records() < 255, "fault records: {capabilities:?}");
    let off = unit.status(context.platform());
    require!(!off.translation(), "translation is on before anybody turned it on");
    Ok(())
}
