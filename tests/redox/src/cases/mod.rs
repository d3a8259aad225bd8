//! The cases, one file for each part of the house.

mod absent;
mod blocked;
mod confined;
mod ctl;
mod daemon;
mod disk;
mod domain;
mod drivers;
mod killed;
mod memory;
mod nodes;
mod registers;
mod restart;
mod revoked;
mod sessions;
mod shared;
mod streams;

use agent::machine::Found;
use agent::run::Spec;

use crate::machine::Machine;
use crate::needs::Check;
use crate::needs::Need::{Edus, FreeNvme, NobodyElse, Nvme, VirtioDisk};

/// The cases on a machine with an IOMMU, in the order in which they run.
pub(crate) const CONFINED: &[Check] = &[
    Check::new(&[], Spec::new("iommud_owns_the_iommu", daemon::owns_the_iommu)),
    Check::new(&[], Spec::new("iommud_tells_how_it_was_started", daemon::tells_how)),
    Check::new(
        &[Edus(1)],
        Spec::new("a_second_iommud_is_refused_and_harms_nobody", daemon::a_second_one_is_refused),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("iommuctl_reports_as_table_and_as_json", ctl::tables_and_json),
    ),
    Check::new(&[], Spec::new("iommuctl_plans_what_iommud_did", ctl::plan)),
    Check::new(&[Edus(1)], Spec::new("iommuctl_has_its_exit_codes", ctl::exit_codes)),
    Check::new(&[], Spec::new("nodes_are_read_as_files", nodes::are_files)),
    Check::new(&[Edus(1)], Spec::new("r3_nodes_refuse_with_typed_errors", nodes::refuse)),
    Check::new(
        &[Edus(1)],
        Spec::new("data_goes_through_translation_and_back", drivers::data_goes_and_comes),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("r3_memory_of_the_driver_s_own_is_registered_and_no_other", drivers::registered),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("every_kind_of_buffer_brings_data_there_and_back", drivers::every_kind_of_buffer),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("small_memory_shares_windows_and_costs_no_mappings", streams::share_windows),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("r2_what_a_strict_stream_unmapped_is_out_of_reach", streams::strict),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("r3_a_shared_buffer_is_read_and_not_written", shared::is_read_and_not_written),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("r1_a_domain_has_the_address_that_was_chosen", domain::at_a_chosen_address),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new(
            "a_buffer_is_sent_and_attached_to_a_second_device",
            shared::is_sent_and_attached_to_a_second_device,
        ),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new(
            "a_domain_is_entered_by_another_process_with_a_ticket",
            domain::is_entered_by_another_process,
        ),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new("r4_registers_are_reached_until_their_driver_goes", registers::are_reached),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new("r2_a_share_that_was_revoked_is_out_of_each_devices_reach", revoked::a_share),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new(
            "r2_r3_a_handle_within_bounds_maps_there_until_it_is_revoked",
            revoked::within_bounds,
        ),
    ),
    Check::new(
        &[Edus(1), FreeNvme],
        Spec::new("a_device_is_reset_and_its_holders_learn_of_it", revoked::by_a_reset),
    ),
    Check::new(&[Edus(2)], Spec::new("two_drivers_work_at_once_and_apart", drivers::two_at_once)),
    Check::new(&[Edus(1)], Spec::new("a_read_of_what_is_not_mapped_is_blocked", blocked::read)),
    Check::new(&[Edus(1)], Spec::new("a_write_to_what_was_unmapped_is_blocked", blocked::write)),
    Check::new(&[Edus(1)], Spec::new("a_write_past_the_end_is_blocked", blocked::past_the_end)),
    Check::new(
        &[Edus(1)],
        Spec::new("r6_a_write_to_a_read_only_mapping_is_blocked", blocked::read_only),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("r6_write_only_is_blocked_or_said_to_be_impossible", blocked::write_only),
    ),
    Check::new(&[Edus(1)], Spec::new("a_read_of_a_freed_buffer_is_blocked", blocked::after_free)),
    Check::new(
        &[Edus(1)],
        Spec::new("a_unit_interrupts_for_what_it_tells_of", blocked::interrupts),
    ),
    Check::new(&[Edus(2)], Spec::new("a_physical_address_is_blocked", blocked::physical)),
    Check::new(&[Edus(1)], Spec::new("r7_more_than_a_buffer_is_refused", blocked::over_map)),
    Check::new(
        &[Edus(1)],
        Spec::new("r3_a_second_opener_is_refused", sessions::a_second_opener_is_refused),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new("a_passed_handle_works_in_another_process", sessions::a_passed_handle_works),
    ),
    Check::new(
        &[Edus(1)],
        Spec::new(
            "a_passed_handle_outlives_who_passed_it_and_ends_with_the_last",
            sessions::a_passed_handle_outlives,
        ),
    ),
    Check::new(&[Edus(1)], Spec::long("r4_a_killed_driver_leaves_nothing", killed::leaves_nothing)),
    Check::new(&[Edus(1)], Spec::new("a_driver_that_iommu_run_starts_works", confined::works)),
    Check::new(
        &[VirtioDisk],
        Spec::new("a_driver_over_virtio_drivers_reads_its_disk", confined::reads_a_virtio_disk),
    ),
    Check::new(
        &[Nvme],
        Spec::new("a_ported_driver_of_base_reads_its_disk", disk::gives_its_sector),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new(
            "r3_a_driver_that_iommu_run_starts_opens_nothing_else",
            confined::reaches_nothing_else,
        ),
    ),
    Check::new(
        &[Edus(1), NobodyElse],
        Spec::long("r4_a_driver_that_iommu_run_starts_outlives_iommud", confined::outlives_iommud),
    ),
    Check::new(
        &[Edus(2), NobodyElse],
        Spec::long(
            "r2_a_device_streams_on_while_iommud_is_killed",
            restart::r2_a_device_streams_on,
        ),
    ),
    Check::new(
        &[Edus(1), NobodyElse],
        Spec::long(
            "r8_what_a_client_has_mapped_still_is_not_given_out_after_a_restart",
            memory::r8_that_is_still_mapped,
        ),
    ),
    Check::new(
        &[Edus(1), NobodyElse],
        Spec::new(
            "r8_what_a_client_only_seems_to_have_unmapped_is_not_given_out",
            memory::r8_that_seems_to_be_unmapped,
        ),
    ),
    // The last one: from then on iommud is one that was started by hand.
    Check::new(
        &[Edus(1), NobodyElse],
        Spec::long(
            "r2_what_devices_reach_is_nobodys_when_iommud_and_its_keeper_are_killed",
            memory::r2_that_nobody_keeps,
        ),
    ),
];

/// The cases on a machine without one, on which nobody serves.
pub(crate) const ABSENT: &[Check] = &[
    Check::new(&[], Spec::new("without_an_iommu_iommud_says_so", absent::iommud_says_so)),
    Check::new(&[], Spec::new("without_an_iommu_nobody_is_served", absent::nobody_is_served)),
    Check::new(
        &[],
        Spec::new(
            "without_an_iommu_the_policy_may_let_drivers_be_served_unprotected",
            absent::unprotected_where_the_policy_says_so,
        ),
    ),
    Check::new(
        &[],
        Spec::new(
            "without_an_iommu_a_buffer_is_sent_where_the_policy_says_so",
            absent::shared_where_the_policy_says_so,
        ),
    ),
    Check::new(
        &[],
        Spec::new("without_an_iommu_there_are_no_domains", absent::neither_domains_nor_registers),
    ),
    Check::new(
        &[],
        Spec::new("quotas_and_a_reserve_are_as_the_policy_says", absent::quotas_and_a_reserve),
    ),
];

/// The cases on a machine without one, on which iommud serves all the same, as the policy says.
pub(crate) const UNPROTECTED: &[Check] = &[
    Check::new(
        &[Edus(1)],
        Spec::new(
            "without_an_iommu_drivers_are_served_unprotected_and_told",
            absent::served_unprotected,
        ),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new(
            "without_an_iommu_a_buffer_is_sent_and_attached_to_a_second_device",
            shared::is_sent_and_attached_to_a_second_device,
        ),
    ),
    Check::new(
        &[Edus(2)],
        Spec::new("without_an_iommu_registers_are_reached", registers::are_reached),
    ),
    Check::new(
        &[Nvme],
        Spec::new("a_ported_driver_of_base_reads_its_disk_unprotected", disk::gives_its_sector),
    ),
];

/// All cases, of whichever machine.
pub(crate) fn all() -> impl Iterator<Item = &'static Check> {
    CONFINED.iter().chain(ABSENT).chain(UNPROTECTED)
}

/// The cases of this machine.
pub(crate) fn of(machine: &Machine) -> &'static [Check] {
    match machine.found {
        Found::Nothing if machine.is_served => UNPROTECTED,
        Found::Nothing => ABSENT,
        Found::Vtd | Found::AmdVi => CONFINED,
    }
}
