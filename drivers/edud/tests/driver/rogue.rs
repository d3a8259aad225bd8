//! Misbehaviour, blocked and not blocked.

use std::sync::Arc;

use clap::ValueEnum;
use edud::daemon::rogue::{self, Kind};
use edud::daemon::{Driver, Error};
use libdma::Device;

use crate::stand_in::{Daemon, Edu, Guard, Iommu, address, driver};

#[test]
fn r1_what_the_iommu_blocks_is_seen_to_be_blocked() {
    for kind in Kind::value_variants() {
        let verdict = rogue::run(&mut driver(Guard::Firm), *kind, None).unwrap();
        assert!(!verdict.went_through, "{verdict}");
        assert!(verdict.to_string().contains(": blocked ("), "{verdict}");
    }
}

#[test]
fn r1_what_goes_through_is_seen_to_go_through() {
    for kind in Kind::value_variants() {
        let verdict = rogue::run(&mut driver(Guard::Absent), *kind, None).unwrap();
        assert!(verdict.went_through, "{verdict}");
        assert!(verdict.to_string().contains(": NOT BLOCKED ("), "{verdict}");
    }
}

#[test]
fn the_address_in_the_verdict_is_the_one_on_the_bus() {
    let iommu = Iommu::new(Guard::Firm);
    let mut device = Device::open(Arc::new(Daemon::new(iommu.clone())), address()).unwrap();
    device.set_dma_mask(28).unwrap();
    let mut driver = Driver::new(device, Box::new(Edu::new(iommu))).unwrap();
    let text = |driver: &mut Driver, kind, at| rogue::run(driver, kind, at).unwrap().to_string();
    assert!(text(&mut driver, Kind::Read, None).starts_with("rogue read from 0xffff000: blocked"));
    assert!(
        text(&mut driver, Kind::Physical, Some(0x7_1234_5000))
            .starts_with("rogue physical read from 0x2345000: blocked")
    );
}

/// iommud learns of a blocked access a little later, and can tell of what is mapped then.
#[test]
fn what_the_device_was_not_to_reach_stays_mapped_until_that_is_told() {
    let iommu = Iommu::new(Guard::Firm);
    let device = Device::open(Arc::new(Daemon::new(iommu.clone())), address()).unwrap();
    let mut driver = Driver::new(device, Box::new(Edu::new(iommu.clone()))).unwrap();
    for (kind, mappings) in
        [(Kind::PastTheEnd, 1), (Kind::ReadOnly, 1), (Kind::WriteOnly, 1), (Kind::Write, 0)]
    {
        let verdict = rogue::run(&mut driver, kind, None).unwrap();
        let meanwhile = iommu.live_mappings();
        drop(verdict);
        assert_eq!(meanwhile - iommu.live_mappings(), mappings, "{kind:?}");
    }
}

#[test]
fn an_address_where_none_is_used_is_refused() {
    for kind in [Kind::Write, Kind::PastTheEnd, Kind::ReadOnly, Kind::WriteOnly, Kind::AfterFree] {
        let refused = rogue::run(&mut driver(Guard::Firm), kind, Some(0x1000));
        assert!(matches!(refused, Err(Error::NeedlessAddress)), "{kind:?}");
    }
}

#[test]
fn a_device_that_does_nothing_at_all_proves_nothing() {
    let device = Device::open(Arc::new(Daemon::new(Iommu::new(Guard::Firm))), address()).unwrap();
    let mut driver = Driver::new(device, Box::new(Edu::new(Iommu::new(Guard::Firm)))).unwrap();
    let error = rogue::run(&mut driver, Kind::Write, None).unwrap_err();
    assert!(matches!(error, Error::Inert { index: 0, .. }), "{error}");
}
