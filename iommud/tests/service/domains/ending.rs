//! How explicit domains end, and units that are slow or fail (R2, R4, R7).

use iommu_sim::pace::Completion as Takes;
use libdma::protocol::derive::Kind;
use libdma::protocol::{Rights, derive};
use libdma::{Access, Error};
use zerocopy::little_endian::U32;

use super::{FIXED, PAGE, end_session, open, other, with_page, writes};
use crate::chosen::piece;
use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    r4_a_domain_whose_session_dies_lets_the_devices_in_it_go_home,
    r4_a_driver_that_dies_in_anothers_domain_leaves_it_as_it_is,
    r4_a_domain_ends_with_its_last_handle,
    r2_what_was_mapped_in_a_domain_waits_for_a_slow_unit,
    r7_an_enter_that_hardware_never_confirms_is_an_error_and_all_ends_well,
    r2_a_unit_that_fails_in_a_domain_keeps_what_was_mapped_there_for_good,
}

fn r4_a_domain_whose_session_dies_lets_the_devices_in_it_go_home(vendor: Vendor) {
    for config in [vendor.machine().with_root_port(), vendor.two_units()] {
        let rig = Rig::on(config);
        let (maker, guest) = (rig.open(), open(&rig, other()));
        let own = guest.allocate(PAGE, Some(Access::Write), "own").unwrap();
        let own_iova = own.iova().unwrap();
        let buffer = maker.allocate(PAGE, None, "shared").unwrap();
        let (domain, _) = with_page(&maker, &buffer);
        let inside = guest.enter(&domain.ticket().unwrap()).unwrap();
        let _ = core::mem::ManuallyDrop::new(domain.attach(&maker).unwrap());
        assert!(writes(&rig, other(), FIXED) && !writes(&rig, other(), own_iova));
        // Its handles may be closed in any order; that of the device is the end.
        end_session(&rig, &maker);
        assert!(!writes(&rig, edu(), FIXED) && !writes(&rig, other(), FIXED));
        assert!(writes(&rig, other(), own_iova));
        // What is left of the domain is a handle to nothing.
        assert_eq!(domain.lookup(FIXED), Err(Error::SessionEnded));
        assert_eq!(domain.ticket(), Err(Error::SessionEnded));
        let refused = domain.map_at(FIXED, &[piece(&buffer, 0, PAGE)]);
        assert_eq!(refused, Err(Error::SessionEnded));
        assert_eq!(inside.leave().map_err(Error::from), Err(Error::NotEntered));
        let again = rig.open();
        assert_eq!(again.generation(), 2);
        std::mem::forget(maker);
        drop((domain, buffer, own, guest, again));
        assert_eq!(rig.usage().live_runs, 0);
        rig.check();
    }
}

fn r4_a_driver_that_dies_in_anothers_domain_leaves_it_as_it_is(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_root_port());
    let (maker, guest) = (rig.open(), open(&rig, other()));
    let buffer = maker.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&maker, &buffer);
    let inside = domain.attach(&maker).unwrap();
    std::mem::forget(guest.enter(&domain.ticket().unwrap()).unwrap());
    end_session(&rig, &guest);
    std::mem::forget(guest);
    assert!(writes(&rig, edu(), FIXED) && !writes(&rig, other(), FIXED));
    let again = open(&rig, other());
    assert!(!writes(&rig, other(), FIXED));
    let _inside = domain.attach(&again).unwrap();
    assert!(writes(&rig, other(), FIXED));
    drop(inside);
    rig.check();
}

fn r4_a_domain_ends_with_its_last_handle(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let before = rig.usage();
    let (domain, _) = with_page(&device, &buffer);
    let rights = Rights::DOMAIN - Rights::SHARE;
    let copy = derive::Copy { kind: U32::new(Kind::Copy as u32), rights: U32::new(rights.bits()) };
    let copy = domain.handle().derive(&copy).unwrap();
    let _inside = domain.attach(&device).unwrap();
    drop(domain);
    assert!(writes(&rig, edu(), FIXED), "there is a handle still");
    drop(copy);
    assert!(!writes(&rig, edu(), FIXED));
    assert_eq!(rig.usage(), before);
    // What was mapped there counts no more, and the buffer can be mapped again.
    let (domain, _) = with_page(&device, &buffer);
    let _inside = domain.attach(&device).unwrap();
    assert!(writes(&rig, edu(), FIXED));
    rig.check();
}

fn r2_what_was_mapped_in_a_domain_waits_for_a_slow_unit(vendor: Vendor) {
    let rig = Rig::on(slow(vendor.machine().with_root_port(), Takes::After(1_000_000)));
    let (maker, guest) = (rig.open(), open(&rig, other()));
    let buffer = maker.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&maker, &buffer);
    std::mem::forget(guest.enter(&domain.ticket().unwrap()).unwrap());
    assert!(writes(&rig, other(), FIXED));
    let live = rig.service.lock().platform().usage().live_runs;
    drop(domain);
    drop(buffer);
    assert_eq!(rig.service.lock().platform().usage().live_runs, live, "the unit may hold it");
    assert_eq!(rig.usage().live_runs, live - 1);
    // The same at the end of its session.
    let buffer = maker.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&maker, &buffer);
    std::mem::forget(guest.enter(&domain.ticket().unwrap()).unwrap());
    assert!(writes(&rig, other(), FIXED));
    drop((domain, maker));
    drop(buffer);
    assert_eq!(rig.service.lock().platform().usage().live_runs, live);
    assert_eq!(rig.usage().live_runs, live - 1);
    rig.check();
}

fn r7_an_enter_that_hardware_never_confirms_is_an_error_and_all_ends_well(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&device, &buffer);
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    assert_eq!(domain.attach(&device).err(), Some(Error::TimedOut));
    assert_eq!(device.new_domain("more").create().err(), Some(Error::UnitFailed));
    drop(domain);
    drop((buffer, device));
    assert_eq!(rig.json("domains"), serde_json::json!([]));
    rig.check();
}

fn r2_a_unit_that_fails_in_a_domain_keeps_what_was_mapped_there_for_good(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let (domain, mapped) = with_page(&device, &buffer);
    let inside = domain.attach(&device).unwrap();
    assert!(writes(&rig, edu(), FIXED));
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    assert_eq!(domain.unmap(&[mapped]), Err(Error::TimedOut));
    assert_eq!(inside.leave().map_err(Error::from), Err(Error::UnitFailed));
    let runs = rig.usage().live_runs;
    drop(domain);
    drop((buffer, device));
    assert_eq!(rig.json("domains"), serde_json::json!([]));
    assert_eq!(rig.usage().live_runs, runs, "nobody knows what the unit still reaches");
}
