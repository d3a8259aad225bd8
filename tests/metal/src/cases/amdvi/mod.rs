//! The rig sees what AMD-Vi does: registers, commands and translation, with structures made by hand.
//!
//! None of the engine is in this, as with [VT-d](super::vtd). QEMU 7.2 and 10.0 never write an event: what is
//! blocked shows in the data that did not move, and in the Signaled Target Abort of the unit's function where a
//! table's entry above the last one forbids.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`by_hand`] | the few registers, entries and commands, from the specification's text |
//! | [`stage`] | the unit with a device table of the case's own, and the device |
//! | [`translation`] | what a device reaches, by its entry and its page table |
//! | [`interrupts`] | what becomes of a device's messages, by its entry, and the unit's own |
//! | [`forgetting`] | commands, and what stays cached without them |

pub mod by_hand;
pub mod forgetting;
pub mod interrupts;
pub mod stage;
pub mod translation;

use iommu_engine::platform::Platform;

use self::by_hand::Unit;
use self::forgetting::{
    a_stale_translation_stays_until_it_is_invalidated,
    commands_are_done_in_order_around_the_end_of_the_buffer,
};
use self::interrupts::{
    a_wait_that_is_to_interrupt_sends_the_message_of_the_unit_s_function,
    interrupts_pass_unless_the_entry_says_otherwise,
};
use self::translation::{
    a_device_whose_entry_is_not_valid_reaches_all_memory, pages_of_any_power_of_two_are_walked,
    r1_an_entry_without_permission_reaches_nothing, r1_only_what_is_mapped_is_reached,
    r6_each_direction_is_enforced_at_every_level,
};
use crate::harness::{Context, Failure, Outcome, Suite};
use crate::{cases, require};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "amdvi",
    cases: cases![
        firmware_tells_of_a_unit,
        the_unit_answers_sanely,
        commands_are_done_in_order_around_the_end_of_the_buffer,
        a_device_whose_entry_is_not_valid_reaches_all_memory,
        r1_an_entry_without_permission_reaches_nothing,
        r1_only_what_is_mapped_is_reached,
        r6_each_direction_is_enforced_at_every_level,
        pages_of_any_power_of_two_are_walked,
        interrupts_pass_unless_the_entry_says_otherwise,
        a_wait_that_is_to_interrupt_sends_the_message_of_the_unit_s_function,
        a_stale_translation_stays_until_it_is_invalidated,
    ],
};

fn firmware_tells_of_a_unit(context: &mut Context) -> Outcome {
    let platform = context.platform();
    let ivrs = platform.acpi_table(*b"IVRS")?.ok_or(Failure("no IVRS".into()))?;
    let sum = ivrs.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    require!(ivrs.starts_with(b"IVRS") && sum == 0, "the IVRS's checksum is off by {sum}");
    let described = by_hand::first_unit(&ivrs)?;
    let base = described.base;
    require!(base.is_aligned(0x4000) && base.get() != 0, "the first unit is at {base}");
    Unit::check_function(platform, described)
}

fn the_unit_answers_sanely(context: &mut Context) -> Outcome {
    let unit = Unit::find(context.platform())?;
    let features = unit.features;
    require!(features.levels() <= 2, "levels: {features:?}");
    require!(features.invalidate_all(), "it cannot forget everything: {features:?}");
    require!(!unit.is_on(context.platform()), "it is on before anybody turned it on");
    Ok(())
}
