//! A machine without IOMMU, whose administrator lets drivers be served all the same.

use iommu_engine::platform::Platform;

use super::engine::caching::buffers_are_cached_as_they_were_asked_for;
use super::engine::checking::the_checker_names_what_is_wrong;
use super::engine::domains::there_are_no_domains_and_no_other_addresses;
use super::engine::limits::{
    a_device_is_told_how_much_is_one_mapping, each_mask_is_for_its_own_kind_of_memory,
    memory_beyond_the_mask_is_bounced,
};
use super::engine::lists::{
    a_buffer_whose_list_was_forgotten_is_taken_back, a_scatter_list_is_synced,
    many_buffers_are_one_request,
};
use super::engine::moving::a_drivers_own_memory_is_registered;
use super::engine::pools::{
    a_device_follows_descriptors_of_a_pool, blocks_of_a_pool_cross_no_boundary,
};
use super::engine::reserve::{
    memory_is_set_aside_and_given_out_in_one_piece, memory_is_set_aside_for_one_device,
};
use super::engine::sharing::{
    a_buffer_is_shared_at_its_one_address,
    a_shared_buffer_is_reached_in_segments_of_its_devices_limits,
    registers_that_are_offered_are_at_their_one_address,
};
use super::engine::streaming::{
    a_scatter_list_is_one_transfer, slices_are_bounced, streaming_buffers_carry_data_both_ways,
};
use super::engine::windows::{
    coherent_memory_comes_from_the_devices_own, idle_windows_are_given_back_when_memory_runs_out,
    small_coherent_memory_shares_windows,
};
use crate::harness::{Context, Outcome, Suite};
use crate::{cases, require};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "none",
    cases: cases![
        firmware_tells_of_no_iommu,
        a_device_follows_descriptors_of_a_pool,
        blocks_of_a_pool_cross_no_boundary,
        streaming_buffers_carry_data_both_ways,
        slices_are_bounced,
        a_scatter_list_is_one_transfer,
        a_scatter_list_is_synced,
        many_buffers_are_one_request,
        a_buffer_whose_list_was_forgotten_is_taken_back,
        each_mask_is_for_its_own_kind_of_memory,
        a_device_is_told_how_much_is_one_mapping,
        memory_beyond_the_mask_is_bounced,
        buffers_are_cached_as_they_were_asked_for,
        memory_is_set_aside_and_given_out_in_one_piece,
        memory_is_set_aside_for_one_device,
        a_drivers_own_memory_is_registered,
        there_are_no_domains_and_no_other_addresses,
        the_checker_names_what_is_wrong,
        small_coherent_memory_shares_windows,
        coherent_memory_comes_from_the_devices_own,
        idle_windows_are_given_back_when_memory_runs_out
    ],
};

/// The suite for a machine with two devices.
pub const SHARED: Suite = Suite {
    name: "none-shared",
    cases: cases![
        a_buffer_is_shared_at_its_one_address,
        a_shared_buffer_is_reached_in_segments_of_its_devices_limits,
        registers_that_are_offered_are_at_their_one_address,
    ],
};

fn firmware_tells_of_no_iommu(context: &mut Context) -> Outcome {
    for signature in [*b"DMAR", *b"IVRS"] {
        let table = context.platform().acpi_table(signature)?;
        require!(table.is_none(), "there is a table {}", signature.escape_ascii());
    }
    Ok(())
}
