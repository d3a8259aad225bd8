//! The cases, one file for each part of the house.

mod blocked;
mod checked;
mod ctl;
mod daemon;
mod disk;
mod drivers;
mod hostile;
mod killed;
mod machine;
mod quarantine;
mod restarted;
mod sessions;
mod without_iommu;

use std::process::ExitCode;

use agent::run::Spec;

/// All cases of a machine with an IOMMU, in the order in which they run: those of the machine before any iommud
/// has changed it.
pub(crate) const CASES: &[Spec] = &[
    Spec::new("busybox_runs", machine::busybox_runs),
    Spec::new("edu_answers_on_bar0", machine::edu_answers_on_bar0),
    Spec::new("unit_registers_map", machine::unit_registers_map),
    Spec::new("huge_page_has_an_address", machine::huge_page_has_an_address),
    Spec::new(
        "without_iommud_devices_reach_all_memory",
        machine::without_iommud_devices_reach_all_memory,
    ),
    Spec::new("iommud_brings_the_unit_up", daemon::brings_the_unit_up),
    Spec::new("iommud_takes_over_from_a_dead_one", daemon::takes_over_from_a_dead_one),
    Spec::new("a_killed_iommud_is_started_again", daemon::is_started_again),
    Spec::new(
        "r2_a_device_streams_on_while_iommud_dies_20_times",
        restarted::r2_a_device_streams_on,
    )
    .within(restarted::LIMIT),
    Spec::new("iommud_goes_on_without_its_keeper", daemon::goes_on_without_its_keeper),
    Spec::new("a_second_iommud_is_refused", daemon::a_second_one_is_refused),
    Spec::new("iommud_ends_when_told", daemon::ends_when_told),
    Spec::new("data_goes_through_translation_and_back", drivers::first_device),
    Spec::new("data_goes_through_translation_for_the_second_device", drivers::second_device),
    Spec::new("two_drivers_work_at_once_and_apart", drivers::both_at_once),
    Spec::new("data_goes_and_comes_by_every_kind_of_buffer", drivers::every_buffer),
    Spec::new("a_driver_registers_memory_of_its_own", drivers::registered),
    Spec::new("the_checker_names_each_mistake_with_its_places", checked::each_mistake),
    Spec::new("the_checker_is_off_unless_it_is_asked_for", checked::off_by_default),
    Spec::new("r1_a_device_nobody_holds_reaches_nothing", blocked::r1_without_a_domain),
    Spec::new("r1_a_device_set_free_reaches_nothing", blocked::r1_after_its_driver),
    Spec::new("a_read_of_what_is_not_mapped_is_blocked", blocked::read),
    Spec::new("a_write_to_what_was_unmapped_is_blocked", blocked::write),
    Spec::new("a_write_past_the_end_is_blocked", blocked::past_the_end),
    Spec::new("r6_a_write_to_a_read_only_mapping_is_blocked", blocked::read_only),
    Spec::new("r6_write_only_is_blocked_or_said_to_be_impossible", blocked::write_only),
    Spec::new("a_read_of_a_freed_buffer_is_blocked", blocked::after_free),
    Spec::new("a_physical_address_is_blocked", blocked::physical),
    Spec::new("the_owner_is_told_what_was_behind_a_blocked_access", blocked::behind),
    Spec::new(
        "r1_a_device_in_quarantine_reaches_nothing_until_its_release",
        quarantine::ends_with_a_release,
    ),
    Spec::new("a_second_opener_is_refused", sessions::a_second_opener_is_refused),
    Spec::new("more_than_a_buffer_is_refused", sessions::more_than_a_buffer_is_refused),
    Spec::new("a_passed_handle_works_in_another_process", sessions::a_passed_handle_works),
    Spec::new("a_passed_handle_outlives_who_passed_it", sessions::a_passed_handle_outlives),
    Spec::new("a_buffer_is_shared_by_two_processes_and_their_devices", sessions::a_shared_buffer),
    Spec::new("r3_an_address_is_refused_by_another_device", sessions::r3_addresses),
    Spec::new("a_domain_is_entered_by_another_process_with_a_ticket", sessions::a_shared_domain),
    Spec::new("r2_a_driver_whose_handle_is_revoked_is_cut_off", sessions::a_revoked_handle),
    Spec::new("only_root_opens_devices", sessions::only_root_opens_devices),
    Spec::long("r4_a_killed_driver_leaves_nothing", killed::leaves_nothing),
    Spec::new("r4_a_driver_killed_anywhere_leaves_nothing", killed::anywhere).within(killed::LIMIT),
    Spec::long("r4_nothing_is_reached_after_death", killed::reaches_nothing),
    Spec::new("a_foreign_crate_reads_a_disk_through_translation", disk::is_read),
    Spec::new("a_foreign_crate_writes_a_disk_through_translation", disk::is_written),
    Spec::new("r3_a_disk_reaches_its_queue_and_copies_and_nothing_else", disk::what_is_mapped),
    Spec::new("r1_a_disk_that_would_go_past_the_iommu_is_refused", disk::past_the_iommu),
    Spec::new("r1_a_sector_does_not_arrive_where_nothing_is_mapped", disk::rogue),
    Spec::long("r4_a_killed_driver_of_a_disk_leaves_nothing", disk::killed),
    Spec::long("r5_garbage_disturbs_nobody", hostile::garbage_disturbs_nobody),
    Spec::new("iommuctl_reports_as_table_and_as_json", ctl::tables_and_json),
    Spec::new("iommuctl_tells_which_devices_go_together", ctl::groups),
    Spec::new("iommuctl_has_its_exit_codes", ctl::exit_codes),
];

/// The cases of a machine without an IOMMU.
pub(crate) const WITHOUT_IOMMU: &[Spec] = &[
    Spec::new("r1_iommud_refuses_by_default", without_iommu::refuses_by_default),
    Spec::new("where_the_policy_allows_it_drivers_work", without_iommu::drivers_work),
    Spec::new("every_kind_of_buffer_works_without_an_iommu", without_iommu::every_buffer),
    Spec::new("a_buffer_is_shared_without_an_iommu", without_iommu::a_shared_buffer),
    Spec::new("the_checker_names_mistakes_without_an_iommu", without_iommu::each_mistake),
    Spec::new("r3_an_address_is_refused_without_an_iommu_too", without_iommu::r3_addresses),
    Spec::new("a_rogue_is_not_blocked", without_iommu::a_rogue_is_not_blocked),
    Spec::new("iommuctl_says_that_nothing_is_confined", without_iommu::iommuctl_shows_it),
    Spec::new("memory_beyond_the_dma_mask_is_an_error", without_iommu::beyond_the_mask),
    Spec::new("disks_work_without_an_iommu", disk::without_iommu),
    Spec::new("a_disk_that_is_led_astray_is_not_blocked", disk::rogue_without_iommu),
    Spec::long("r4_bus_mastering_ends_before_memory_is_free", without_iommu::a_killed_driver),
];

/// All cases of all machines.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    CASES.iter().chain(WITHOUT_IOMMU)
}

/// Runs one case in this process. What it says on failure is the last line it writes.
pub(crate) fn run(name: &str) -> ExitCode {
    match all().find(|spec| spec.name == name) {
        Some(spec) => spec.run_here(),
        None => {
            eprintln!("there is no case {name}");
            ExitCode::from(2)
        }
    }
}
