//! What only AMD-Vi units have, lack or may get wrong.

use dma_types::{Access, Iova, PciAddress};
use iommu_engine::amdvi::probe::UnitRefusal;
use iommu_engine::fault::{FaultCode, FaultReason, Tried};
use iommu_engine::platform::{ConfigSpace, TableFrames};
use iommu_engine::unit::{UnitFailure, UnitState, Unusable};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::machine::IvhdKind;
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::pci::BridgeKind;
use iommud::platform::sim::SimPlatform;

use crate::rig::{Rig, blocked, edu};
use crate::vendor::{Vendor, slow_down};

/// The unit's own function.
const FUNCTION: &str = "0000:00:00.2";

/// Why the only unit of a machine is not used.
fn unusable(rig: &Rig) -> Unusable {
    rig.engine.units()[0].unit.as_ref().unwrap_err().clone()
}

/// The default machine with a unit that is a little different.
fn unit(change: impl FnOnce(&mut AmdviConfig)) -> MachineConfig {
    let mut unit = AmdviConfig::default();
    change(&mut unit);
    MachineConfig::with_amdvi(unit)
}

#[test]
fn r5_a_unit_that_says_nonsense_of_itself_is_refused_with_the_reason() {
    let cases = [
        (unit(|it| it.table_depth = 3), UnitRefusal::NoHostTables),
        (
            unit(|it| (it.table_depth, it.invalidate_all) = (0, false)),
            UnitRefusal::Zero("extended feature"),
        ),
        (unit(|it| it.health = Health::AllOnes), UnitRefusal::AllOnes("control")),
    ];
    for (machine, refusal) in cases {
        let mut rig = Rig::new(machine);
        assert_eq!(unusable(&rig), Unusable::RefusedAmdvi(refusal));
        assert!(rig.engine.create_domain(&mut rig.platform, &[edu()]).is_err());
        assert!(!rig.platform.machine().is_translating(0));
        assert_eq!(rig.platform.usage().live_frames, 0, "it has no tables");
        rig.check();
    }
}

#[test]
fn registers_that_firmware_left_off_are_turned_on_where_the_table_says() {
    let mut config = Vendor::Amdvi.machine();
    config.amdvi_units[0].enabled = false;
    let mut rig = Rig::new(config);
    assert_eq!(rig.platform.config_read(FUNCTION.parse().unwrap(), 0x44), 0xfed8_0001);
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page));
    rig.check();
}

#[test]
fn r5_a_unit_whose_registers_are_elsewhere_is_refused() {
    let mut config = Vendor::Amdvi.machine();
    config.amdvi_units[0].enabled = false;
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    // Once turned on there, it cannot be moved.
    platform.config_write(FUNCTION.parse().unwrap(), 0x44, 0xfed7_0001);
    let rig = Rig::start_on(platform);
    let base = dma_types::PhysAddr::new(0xfed7_0000);
    assert_eq!(unusable(&rig), Unusable::RefusedAmdvi(UnitRefusal::Elsewhere { base }));
    assert_eq!(rig.platform.mapped_registers().count(), 0, "they are not touched");
}

#[test]
fn any_kind_of_block_describes_a_unit() {
    use IvhdKind::{Acpi, Basic, Extended};
    for blocks in [&[Basic][..], &[Extended], &[Acpi], &[Basic, Extended, Acpi]] {
        let mut config = Vendor::Amdvi.machine().with_root_port();
        config.amdvi_units[0].blocks = blocks.to_vec();
        let mut rig = Rig::new(config);
        assert_eq!(rig.engine.units().len(), 1, "{blocks:?}");
        for device in [edu(), crate::rig::other()] {
            let domain = rig.attach(device);
            let page = rig.page(domain);
            assert!(rig.reaches(device, page), "{blocks:?}");
        }
        rig.check();
    }
}

/// A machine of whose table memory every other piece of so many frames is somebody's.
fn in_pieces(config: MachineConfig, frames: u64) -> SimPlatform {
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| platform.alloc_frame()).collect();
    for frame in all {
        if frame.get() / 4096 / frames % 2 == 1 {
            platform.free_frame(frame);
        }
    }
    platform
}

#[test]
fn a_table_that_fits_nowhere_whole_is_in_segments_as_many_as_the_unit_takes() {
    let far: PciAddress = "0000:f0:00.0".parse().unwrap();
    for (order, frames) in [(0, 512), (1, 256), (2, 128), (3, 64)] {
        let mut machine = unit(|it| it.segments = order).with_bridge(
            BridgeKind::RootPort,
            0x0018,
            (0xf0, 0xf0),
            None,
        );
        machine.edus.push(iommu_sim::machine::EduConfig::new(far, 0xfeb0_0000));
        let mut rig = Rig::start_on(in_pieces(machine.clone(), frames));
        rig.settle();
        for device in [edu(), far] {
            assert!(!rig.reaches(device, 0x1_0000_0000), "{order}");
            let domain = rig.attach(device);
            let page = rig.page(domain);
            assert!(rig.reaches(device, page), "{order}");
            rig.detach(device);
            assert!(!rig.reaches(device, page), "{order}");
        }
        rig.check();
        // Smaller pieces than it takes are not enough.
        let rig = Rig::start_on(in_pieces(machine, frames / 2));
        assert_eq!(unusable(&rig), Unusable::OutOfFrames);
    }
}

#[test]
fn r1_a_segmented_table_is_taken_over_with_nothing_open_afterwards() {
    let machine = unit(|it| it.segments = 3);
    let platform = in_pieces(machine, 64);
    platform.machine_mut().amdvi_mut(0).unwrap().firmware_left_translation_on(0x7e00_0000);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert_eq!(rig.unit_state(0), UnitState::Running);
    assert!(!rig.reaches(edu(), 0x7e00_0000));
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page));
    rig.check();
}

#[test]
fn a_unit_without_a_log_denies_as_others_do_and_tells_nothing() {
    // As QEMU's up to 10.0.
    let mut rig = Rig::new(unit(|it| it.logs_events = false));
    assert!(blocked(&rig.write(0x1_0000_0000, &[1; 8])));
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page) && !rig.reaches(edu(), page + 4096));
    assert_eq!(rig.faults(), (Vec::new(), false));
    rig.check();
}

#[test]
fn a_unit_that_tells_no_direction_of_what_is_absent_has_it_read() {
    // The specification promises RW only where PR is set. What is told else is as ever.
    let mut rig = Rig::new(unit(|it| it.direction_always = false));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::Read);
    let absent = iova.get() + (1 << 20);
    assert!(blocked(&rig.write(absent, &[1; 8])));
    assert!(blocked(&rig.write(iova.get(), &[1; 8])));
    let (faults, _) = rig.faults();
    let told: Vec<_> = faults.iter().map(|it| (it.address, it.tried, it.reason)).collect();
    let expected = [
        (Iova::new(absent), Tried::Read, FaultReason::NotReadable),
        (iova, Tried::Write, FaultReason::NotWritable),
    ];
    assert_eq!(told, expected);
    assert!(faults.iter().all(|fault| fault.device_in(0) == Some(edu())));
    rig.check();
}

#[test]
fn r5_every_event_there_can_be_is_told_in_order_and_the_log_goes_on() {
    let mut rig = Rig::new(Vendor::Amdvi.machine());
    for code in 1..16 {
        for flags in [0, 0x020, 0xfff] {
            let low = code << 60 | flags << 48 | 5 << 32 | 0x0010;
            rig.platform.machine_mut().log_amdvi_event(0, low, 0xdead_b000);
        }
    }
    let (faults, lost) = rig.faults();
    let codes: Vec<_> = faults.iter().map(|it| it.code).collect();
    let expected: Vec<_> = (1..16)
        .flat_map(|event| [0, 0x020, 0xfff].map(|flags| FaultCode::Amdvi { event, flags }))
        .collect();
    assert_eq!((codes, lost), (expected, false));
    assert!(blocked(&rig.write(0x1_0000_0000, &[1; 8])));
    assert_eq!(rig.faults().0.len(), 1);
    rig.check();
}

#[test]
fn r2_a_detached_devices_entry_is_believed_until_the_unit_has_forgotten_it() {
    // Blocked in memory, and yet it reaches: that is why detaching waits.
    let mut rig = Rig::new(Vendor::Amdvi.machine());
    let domain = rig.attach(edu());
    let page = rig.page(domain);
    assert!(rig.reaches(edu(), page));
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    let detached = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.drive(edu());
    assert!(rig.reaches(edu(), page));
    slow_down(&mut rig.platform.machine_mut(), Takes::Immediate);
    rig.finish(&detached);
    assert!(!rig.reaches(edu(), page));
    rig.check();
}

#[test]
fn r1_what_firmware_cached_is_forgotten_before_the_unit_is_said_to_run() {
    for invalidate_all in [true, false] {
        let machine = unit(|it| (it.invalidate_all, it.more_features) = (invalidate_all, 1 << 2));
        let mut platform = SimPlatform::with_manual_clock(machine).unwrap();
        // Entries of zeroes let everything through.
        platform.machine_mut().amdvi_mut(0).unwrap().firmware_left_translation_on(0x7e00_0000);
        platform.config_write(edu(), 4, 6);
        let reached = platform.machine_mut().dma_write(edu(), 0x7e00_8000, &[1; 8]);
        assert_eq!(reached, Ok(()));
        let mut rig = Rig::start_on(platform);
        rig.settle();
        assert!(!rig.reaches(edu(), 0x7e00_8000));
        rig.check();
    }
}

#[test]
fn r5_a_unit_that_never_forgets_what_firmware_cached_never_runs() {
    let mut machine = Vendor::Amdvi.machine();
    machine.amdvi_units[0].amdvi.timing.commands = Takes::Never;
    let mut rig = Rig::new(machine);
    let what = "invalidate its caches";
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::StartTimedOut { what }));
    assert!(rig.engine.create_domain(&mut rig.platform, &[edu()]).is_err());
}
