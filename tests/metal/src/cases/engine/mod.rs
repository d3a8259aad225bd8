//! Engine, service and libdma, linked together, on QEMU's unit, whichever vendor's it is.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`rig`] | a service on the machine, a driver, and its device |
//! | [`hardware`] | the unit, by hand: what it is, and what can be expected of it |
//! | [`canary`] | memory that no device has any business with |
//! | [`caching`] | how the CPU caches a buffer |
//! | [`reserve`] | memory that the policy sets aside, and memory below a mask |
//! | [`moving`] | what is mapped arrives, at an address that is not the physical one |
//! | [`streaming`] | CPU and device take turns with memory, in windows and strictly |
//! | [`lists`] | scatter lists that both take turns with, and many buffers that are one request |
//! | [`limits`] | masks, segments, and memory beyond them |
//! | [`windows`] | small coherent memory, which shares windows, and a device's own |
//! | [`pools`] | a device follows descriptors of a pool |
//! | [`domains`] | addresses that a driver chooses, and domains that devices are moved into |
//! | [`checking`] | what a driver and its device do wrong is named |
//! | [`blocking`] | what is not mapped, or not so, does not, and is reported |
//! | [`quarantine`] | what a device is denied once too often takes everything from it |
//! | [`telling`] | what is blocked is told by an interrupt |
//! | [`ending`] | what was taken away stays away, and what was held comes back |
//! | [`group`] | two devices that a unit can keep apart, or cannot |
//! | [`addresses`] | one device's address, given to another |
//! | [`revoking`] | what was given away and is taken back, and a device that is reset |
//! | [`sharing`] | two devices and what they share |
//! | [`starting`] | from the first instant, and from translation that was left on |

pub mod addresses;
pub mod blocking;
pub mod caching;
pub mod canary;
pub mod checking;
pub mod domains;
pub mod ending;
pub mod group;
pub mod hardware;
pub mod limits;
pub mod lists;
pub mod moving;
pub mod pools;
pub mod quarantine;
pub mod reserve;
pub mod revoking;
pub mod rig;
pub mod sharing;
pub mod starting;
pub mod streaming;
pub mod telling;
pub mod windows;

use self::addresses::r3_an_address_is_given_back_to_its_own_device_and_no_other;
use self::blocking::{
    r1_a_device_that_nobody_holds_reaches_nothing, r1_a_read_outside_is_blocked_and_reported,
    r1_a_write_outside_is_blocked_and_reported, r1_the_physical_address_is_no_way_round,
    r6_a_read_only_mapping_is_enforced,
    r6_a_write_only_mapping_is_enforced_or_said_to_be_impossible,
};
use self::caching::buffers_are_cached_as_they_were_asked_for;
use self::checking::the_checker_names_what_is_wrong;
use self::domains::{
    a_domain_maps_in_its_aperture_and_says_what_is_where,
    pieces_are_at_the_address_that_was_chosen_one_behind_the_other,
    r1_a_device_reaches_a_domain_while_it_is_in_it_and_nothing_else,
    two_devices_reach_one_buffer_at_one_address,
};
use self::ending::{
    a_stale_translation_really_stays_until_it_is_invalidated,
    r2_after_an_unmap_the_translation_is_gone, r4_closing_ends_access_and_gives_everything_back,
};
use self::group::{
    devices_behind_ports_with_acs_are_kept_apart,
    devices_that_cannot_be_kept_apart_are_confined_as_one,
};
use self::limits::{
    a_device_is_told_how_much_is_one_mapping, each_mask_is_for_its_own_kind_of_memory,
    memory_beyond_the_mask_is_bounced,
};
use self::lists::{
    a_buffer_whose_list_was_forgotten_is_taken_back, a_scatter_list_is_synced,
    many_buffers_are_one_request,
};
use self::moving::{
    a_drivers_own_memory_is_registered, a_large_page_is_walked,
    data_moves_both_ways_through_an_io_address, interrupts_of_a_device_that_is_held_arrive,
    pages_that_are_scattered_are_contiguous_for_the_device,
};
use self::pools::{a_device_follows_descriptors_of_a_pool, blocks_of_a_pool_cross_no_boundary};
use self::quarantine::r1_a_device_in_quarantine_reaches_nothing_until_it_is_released;
use self::reserve::{
    memory_is_set_aside_and_given_out_in_one_piece, memory_is_set_aside_for_one_device,
};
use self::revoking::{
    a_device_is_reset_and_its_holders_learn_of_it,
    r2_a_share_that_was_revoked_is_out_of_each_devices_reach,
    r2_r3_a_handle_within_bounds_maps_there_until_it_is_revoked,
};
use self::sharing::{
    a_shared_buffer_is_reached_in_segments_of_its_devices_limits,
    r4_a_buffer_is_shared_until_the_last_device_lets_it_go,
    r4_registers_that_are_offered_are_reached_until_their_driver_goes,
};
use self::starting::{
    r1_the_unit_translates_and_denies_by_default, r1_translation_that_was_left_on_is_taken_over,
};
use self::streaming::{
    a_scatter_list_is_one_transfer, r2_a_strict_unmap_takes_the_memory_from_the_device,
    slices_are_bounced, streaming_buffers_carry_data_both_ways,
};
use self::telling::a_blocked_transfer_interrupts_and_so_does_the_next;
use self::windows::{
    coherent_memory_comes_from_the_devices_own, idle_windows_are_given_back_when_memory_runs_out,
    small_coherent_memory_shares_windows,
};
use crate::cases;
use crate::harness::Suite;

/// The suite for a machine with two devices in one group.
pub const GROUP: Suite =
    Suite { name: "group", cases: cases![devices_that_cannot_be_kept_apart_are_confined_as_one] };

/// The suite for a machine with two devices, each behind a port with ACS.
pub const APART: Suite =
    Suite { name: "apart", cases: cases![devices_behind_ports_with_acs_are_kept_apart] };

/// The suite for a machine with two devices that are kept apart.
pub const SHARED: Suite = Suite {
    name: "shared",
    cases: cases![
        r4_a_buffer_is_shared_until_the_last_device_lets_it_go,
        a_shared_buffer_is_reached_in_segments_of_its_devices_limits,
        r4_registers_that_are_offered_are_reached_until_their_driver_goes,
        two_devices_reach_one_buffer_at_one_address,
        r3_an_address_is_given_back_to_its_own_device_and_no_other,
        r2_a_share_that_was_revoked_is_out_of_each_devices_reach,
        a_device_is_reset_and_its_holders_learn_of_it,
    ],
};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "engine",
    cases: cases![
        r1_the_unit_translates_and_denies_by_default,
        data_moves_both_ways_through_an_io_address,
        pages_that_are_scattered_are_contiguous_for_the_device,
        a_large_page_is_walked,
        a_drivers_own_memory_is_registered,
        buffers_are_cached_as_they_were_asked_for,
        memory_is_set_aside_and_given_out_in_one_piece,
        memory_is_set_aside_for_one_device,
        interrupts_of_a_device_that_is_held_arrive,
        streaming_buffers_carry_data_both_ways,
        slices_are_bounced,
        a_scatter_list_is_one_transfer,
        a_scatter_list_is_synced,
        many_buffers_are_one_request,
        a_buffer_whose_list_was_forgotten_is_taken_back,
        each_mask_is_for_its_own_kind_of_memory,
        a_device_is_told_how_much_is_one_mapping,
        memory_beyond_the_mask_is_bounced,
        r2_a_strict_unmap_takes_the_memory_from_the_device,
        a_device_follows_descriptors_of_a_pool,
        blocks_of_a_pool_cross_no_boundary,
        pieces_are_at_the_address_that_was_chosen_one_behind_the_other,
        r1_a_device_reaches_a_domain_while_it_is_in_it_and_nothing_else,
        a_domain_maps_in_its_aperture_and_says_what_is_where,
        the_checker_names_what_is_wrong,
        small_coherent_memory_shares_windows,
        coherent_memory_comes_from_the_devices_own,
        idle_windows_are_given_back_when_memory_runs_out,
        r1_a_device_that_nobody_holds_reaches_nothing,
        r1_a_read_outside_is_blocked_and_reported,
        r1_a_write_outside_is_blocked_and_reported,
        r1_the_physical_address_is_no_way_round,
        r6_a_read_only_mapping_is_enforced,
        r6_a_write_only_mapping_is_enforced_or_said_to_be_impossible,
        a_blocked_transfer_interrupts_and_so_does_the_next,
        r1_a_device_in_quarantine_reaches_nothing_until_it_is_released,
        a_stale_translation_really_stays_until_it_is_invalidated,
        r2_after_an_unmap_the_translation_is_gone,
        r2_r3_a_handle_within_bounds_maps_there_until_it_is_revoked,
        r4_closing_ends_access_and_gives_everything_back,
        r1_translation_that_was_left_on_is_taken_over,
    ],
};
