//! A machine whose firmware describes no IOMMU.

use dma_types::{Iova, PhysAddr};
use iommu_engine::engine::{Confinement, Engine, MapSpec};
use iommu_engine::error::{EngineError, StartError};
use iommu_engine::ledger::Ledger;
use iommu_engine::pci::{self, AcsServices};
use iommu_engine::platform::BufferRuns;
use iommu_engine::policy::{IgnoredUnit, Policy, WithoutIommu};
use iommu_engine::records::AttachmentRecord;
use iommu_sim::MachineConfig;
use iommu_sim::machine::FunctionConfig;
use iommu_sim::pci::acs::ISOLATING;
use iommud::platform::sim::SimPlatform;

use crate::rig::{Rig, edu, whole};

fn unprotected() -> Policy {
    Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() }
}

#[test]
fn r1_without_a_word_of_the_policy_there_is_no_start_and_the_error_says_which_word() {
    let mut platform = SimPlatform::new(MachineConfig::without_units()).unwrap();
    let error = Engine::start(&mut platform, Policy::default()).unwrap_err();
    assert_eq!(error, StartError::NoIommu);
    assert!(error.to_string().ends_with("say `without_iommu: unprotected` in the policy"));
}

#[test]
fn r1_units_that_are_not_used_are_not_none() {
    let base = dma_types::PhysAddr::new(0xfed9_0000);
    let ignored_units = vec![IgnoredUnit { base, reason: "it hangs".into() }];
    let policy = Policy { ignored_units, ..unprotected() };
    let mut rig = Rig::with_policy(MachineConfig::default(), policy);
    assert!(rig.engine.has_iommu());
    assert_eq!(rig.engine.confinement(edu()), Confinement::UnitNotUsed);
    let refused = rig.engine.create_domain(&mut rig.platform, &[edu()]);
    assert_eq!(refused, Err(EngineError::UnitNotWorking(edu())));
}

#[test]
fn on_a_machine_with_an_iommu_the_word_changes_nothing() {
    let mut rig = Rig::with_policy(MachineConfig::default(), unprotected());
    assert_eq!(rig.engine.confinement(edu()), Confinement::Confined);
    assert!(rig.write(0x2_0000_0000, &[1]).is_err());
    rig.check();
}

#[test]
fn memory_is_mapped_where_it_is_or_not_at_all() {
    let mut rig = Rig::with_policy(MachineConfig::without_units(), unprotected());
    assert_eq!(rig.engine.confinement(edu()), Confinement::NoIommu);
    let before = rig.platform.usage();
    let domain = rig.attach(edu());
    let run = rig.platform.alloc_contiguous_run(0x5000, PhysAddr::new(u64::MAX)).unwrap();
    let start = rig.platform.segments(run)[0].start;
    let mut map = |spec: MapSpec| {
        rig.engine.map(&mut rig.platform, domain, &spec).map(|(iova, completion)| {
            assert_eq!(completion, Default::default(), "there is nothing to wait for");
            iova
        })
    };
    let spec = whole(run, 0x5000);
    let just_below = Iova::new(start.get() + 0x4ffe);
    assert_eq!(map(MapSpec { limit: just_below, ..spec }), Err(EngineError::Unsuitable(start)));
    assert_eq!(map(MapSpec { align: 1 << 40, ..spec }), Err(EngineError::Misaligned(start)));
    let just_enough = Iova::new(start.get() + 0x4fff);
    let iova = map(MapSpec { limit: just_enough, ..spec }).unwrap();
    assert_eq!(iova.get(), start.get());
    let inside = MapSpec { offset: 0x1000, bytes: 0x1000, ..spec };
    assert!(matches!(map(inside), Err(EngineError::Iova(_))), "R7");
    let scattered = rig.run(0x5000);
    let refused = rig.engine.map(&mut rig.platform, domain, &whole(scattered, 0x5000));
    assert_eq!(refused, Err(EngineError::InPieces(4)));
    rig.write(iova.get(), b"there").unwrap();
    let destroyed = rig.engine.destroy_domain(&mut rig.platform, domain);
    assert_eq!(destroyed, Err(EngineError::DomainInUse(domain)));
    rig.unmap(domain, iova, 0x5000);
    let completion = rig.engine.detach(&mut rig.platform, edu()).unwrap();
    assert_eq!(completion, Default::default());
    rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    rig.platform.free_run(run);
    rig.platform.free_run(scattered);
    assert_eq!(rig.platform.usage(), before);
    rig.check();
}

#[test]
fn what_is_attached_is_in_the_ledger_for_as_long_as_it_is() {
    let mut rig = Rig::with_policy(MachineConfig::without_units(), unprotected());
    let before = rig.platform.usage();
    let records = |rig: &Rig| -> Vec<AttachmentRecord> {
        let records = Ledger::records(&rig.platform).unwrap();
        records.into_iter().map(|(_, record)| record).collect()
    };
    for _ in 0..200 {
        let domain = rig.attach(edu());
        let attached = AttachmentRecord { device: edu(), domain: domain.0, id: 0 };
        assert_eq!(records(&rig), [attached]);
        rig.engine.detach(&mut rig.platform, edu()).unwrap();
        assert_eq!(records(&rig), []);
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    }
    assert_eq!(rig.platform.usage(), before);
}

#[test]
fn another_device_in_a_held_place_needs_no_attaching() {
    let mut rig = Rig::with_policy(MachineConfig::without_units(), unprotected());
    let domain = rig.attach(edu());
    rig.platform.machine_mut().unplug(edu());
    rig.platform.machine_mut().plug(FunctionConfig::endpoint(edu()));
    rig.engine.rescan(&mut rig.platform);
    assert!(rig.engine.remarks().is_empty(), "{:?}", rig.engine.remarks());
    rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
}

#[test]
fn ports_are_left_as_they_were_for_no_unit_would_see_what_they_send_up() {
    let switch = |machine: MachineConfig| machine.with_switch(Some(ISOLATING));
    let enabled = |config: MachineConfig| {
        let mut rig = Rig::with_policy(switch(config), unprotected());
        let port = pci::function(&mut rig.platform, "11:00.0".parse().unwrap()).unwrap();
        port.acs.unwrap().enabled
    };
    assert_eq!(enabled(MachineConfig::without_units()), AcsServices::new());
    assert_ne!(enabled(MachineConfig::default()), AcsServices::new());
}
