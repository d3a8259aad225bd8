//! What devices in explicit domains reach (R1, R7).

use libdma::protocol::Ticket;
use libdma::{Access, Error, Iova, Mapped};

use super::{FIXED, PAGE, open, other, with_page, writes};
use crate::chosen::piece;
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    a_device_in_a_domain_reaches_what_is_mapped_there_and_nothing_of_its_own,
    a_domain_has_an_aperture_and_maps_nothing_beyond,
    two_devices_see_one_buffer_at_one_address,
    a_device_of_another_process_enters_by_a_ticket,
    r7_an_enter_that_is_refused_leaves_the_device_where_it_was,
    a_guard_of_a_domain_that_was_left_moves_nothing,
}

fn a_device_in_a_domain_reaches_what_is_mapped_there_and_nothing_of_its_own(vendor: Vendor) {
    for config in vendor.interfaces().into_iter().chain([vendor.caching()]) {
        let rig = Rig::on(config);
        let device = rig.open();
        let own = device.allocate(PAGE, Some(Access::ReadWrite), "own").unwrap();
        let own_iova = own.iova().unwrap();
        let shared = device.allocate(PAGE, None, "shared").unwrap();
        let (domain, mapped) = with_page(&device, &shared);
        assert!(writes(&rig, edu(), own_iova) && !writes(&rig, edu(), FIXED));
        for _ in 0..2 {
            let inside = domain.attach(&device).unwrap();
            assert_eq!(inside.domain(), domain.id());
            assert!(!writes(&rig, edu(), own_iova) && writes(&rig, edu(), FIXED));
            // What is mapped in its own domain meanwhile is there when it comes back.
            let next = device.allocate(PAGE, Some(Access::Write), "next").unwrap();
            assert!(!writes(&rig, edu(), next.iova().unwrap()));
            inside.leave().unwrap();
            assert!(writes(&rig, edu(), own_iova) && !writes(&rig, edu(), FIXED));
            assert!(writes(&rig, edu(), next.iova().unwrap()));
        }
        let inside = domain.attach(&device).unwrap();
        domain.unmap(&[mapped]).unwrap();
        assert!(!writes(&rig, edu(), FIXED));
        drop(inside);
        assert!(writes(&rig, edu(), own_iova));
        drop((domain, own, shared, device));
        assert_eq!((rig.usage().live_runs, rig.json("domains")), (0, serde_json::json!([])));
        rig.check();
    }
}

fn a_domain_has_an_aperture_and_maps_nothing_beyond(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "buffer").unwrap();
    let domain = device.new_domain("aperture").aperture(FIXED, 4 * PAGE).create().unwrap();
    assert_eq!(
        (domain.base(), domain.bytes(), domain.last().get()),
        (FIXED, 4 * PAGE, 0x5000_3fff)
    );
    let two = [piece(&buffer, 0, 2 * PAGE)];
    let first = domain.map(&two).unwrap();
    assert_eq!(first[0].iova(), FIXED);
    assert_eq!(domain.map(&two), Err(Error::NoAddressSpace));
    for outside in [FIXED.get() - PAGE, FIXED.get() + 3 * PAGE, 0, 1 << 33] {
        let refused = domain.map_at(Iova::new(outside), &two);
        assert_eq!(refused, Err(Error::OutsideAperture), "{outside:#x}");
    }
    domain.unmap(&first).unwrap();
    let all = domain.map_together(&[two[0], two[0]]).unwrap();
    assert_eq!(all[1].iova().get(), FIXED.get() + 2 * PAGE, "to its last page");
    for (base, bytes, error) in [
        (0x1000, 0, Error::ZeroSize),
        (0x1001, PAGE, Error::BadAlignment),
        (0x1000, 100, Error::BadAlignment),
        (1 << 50, PAGE, Error::Overflow),
        (u64::MAX - 0xfff, 2 * PAGE, Error::Overflow),
    ] {
        let refused = device.new_domain("").aperture(Iova::new(base), bytes).create();
        assert_eq!(refused.err(), Some(error), "{base:#x}, {bytes:#x}");
    }
    // Without one it is what the device reaches, and who reaches less does not enter.
    let wide = device.new_domain("wide").create().unwrap();
    device.set_dma_mask(32).unwrap();
    assert_eq!(wide.attach(&device).err(), Some(Error::NoAddressSpace));
    let narrow = device.new_domain("narrow").create().unwrap();
    assert_eq!((narrow.base(), narrow.last()), (Iova::new(0), Iova::new(0xffff_ffff)));
    narrow.attach(&device).unwrap().leave().unwrap();
    rig.check();
}

fn two_devices_see_one_buffer_at_one_address(vendor: Vendor) {
    for config in [vendor.machine().with_root_port(), vendor.two_units()] {
        let rig = Rig::on(config);
        let (first, second) = (rig.open(), open(&rig, other()));
        let buffer = first.allocate(PAGE, None, "shared").unwrap();
        let (domain, mapped) = with_page(&first, &buffer);
        let one = domain.attach(&first).unwrap();
        let two = domain.attach(&second).unwrap();
        for device in [edu(), other()] {
            assert!(writes(&rig, device, FIXED));
        }
        // Buffers of the domain's own session are mapped in it, and no others.
        let others = second.allocate(PAGE, None, "others").unwrap();
        assert_eq!(domain.map(&[piece(&others, 0, PAGE)]), Err(Error::WrongOwner));
        two.leave().unwrap();
        assert!(writes(&rig, edu(), FIXED) && !writes(&rig, other(), FIXED));
        let _two = domain.attach(&second).unwrap();
        domain.unmap(&[mapped]).unwrap();
        assert!(!writes(&rig, edu(), FIXED) && !writes(&rig, other(), FIXED));
        drop(one);
        rig.check();
    }
}

fn a_device_of_another_process_enters_by_a_ticket(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (maker, guest) = (rig.open(), open(&rig, other()));
    let buffer = maker.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&maker, &buffer);
    let ticket = domain.ticket().unwrap();
    let inside = guest.enter(&ticket).unwrap();
    assert!(writes(&rig, other(), FIXED));
    assert_eq!(maker.enter(&ticket).err(), Some(Error::BadTicket), "R3: good once");
    // The guest has no handle to it: it maps nothing there, and learns of nothing.
    assert_eq!(guest.lookup(FIXED), Ok(None));
    assert_eq!(guest.unmap(&[Mapped::new(guest.bus_address(FIXED), PAGE)]), Err(Error::NotMapped));
    let late = domain.ticket().unwrap();
    drop(domain);
    assert_eq!(guest.enter(&late).err(), Some(Error::BadTicket), "R4: it ends with its domain");
    assert!(!writes(&rig, other(), FIXED));
    assert_eq!(inside.leave().map_err(Error::from), Err(Error::NotEntered));
    rig.check();
}

fn r7_an_enter_that_is_refused_leaves_the_device_where_it_was(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let device = rig.open();
    let own = device.allocate(PAGE, Some(Access::Write), "own").unwrap();
    let own_iova = own.iova().unwrap();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let (domain, _) = with_page(&device, &buffer);
    assert_eq!(device.enter(&Ticket([3; 16])).err(), Some(Error::BadTicket));
    assert!(writes(&rig, edu(), own_iova));
    let inside = domain.attach(&device).unwrap();
    // So often that tickets of what was refused would be too many.
    for _ in 0..100 {
        assert_eq!(domain.attach(&device).err(), Some(Error::AlreadyEntered));
    }
    assert!(writes(&rig, edu(), FIXED));
    // Into another at once, and what is left of the first guard moves nothing.
    let second = device.new_domain("second").create().unwrap();
    let next = second.attach(&device).unwrap();
    assert!(!writes(&rig, edu(), FIXED) && !writes(&rig, edu(), own_iova));
    assert_eq!(inside.leave().map_err(Error::from), Err(Error::NotEntered));
    assert!(!writes(&rig, edu(), own_iova));
    next.leave().unwrap();
    assert!(writes(&rig, edu(), own_iova));
    rig.check();
}

fn a_guard_of_a_domain_that_was_left_moves_nothing(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let first = device.new_domain("first").create().unwrap();
    let stale = first.attach(&device).unwrap();
    drop(first);
    let (second, _) = with_page(&device, &buffer);
    let inside = second.attach(&device).unwrap();
    drop(stale);
    assert!(writes(&rig, edu(), FIXED));
    // A forgotten one leaves the device where it is, until the domain ends.
    std::mem::forget(inside);
    assert!(writes(&rig, edu(), FIXED));
    drop(second);
    assert!(!writes(&rig, edu(), FIXED));
    rig.check();
}

#[test]
fn domains_leave_an_id_for_each_device_that_is_opened_later() {
    let mut config = Vendor::Vtd.machine().with_root_port();
    config.units[0].vtd.domain_id_bits = 4;
    let rig = Rig::on(config);
    let device = rig.open();
    let own = device.allocate(PAGE, Some(Access::Write), "own").unwrap();
    let mut domains = Vec::new();
    let refused = loop {
        let domain = device.new_domain("many").create().unwrap();
        // It keeps its id after the device has left.
        match domain.attach(&device).map(|inside| inside.leave()) {
            Ok(left) => left.unwrap(),
            Err(error) => break error,
        }
        domains.push(domain);
    };
    assert_eq!(refused, Error::QuotaExceeded);
    assert!(domains.len() > 8 && writes(&rig, edu(), own.iova().unwrap()));
    let opened = open(&rig, other());
    // With a domain's end its id can be another's.
    domains.pop();
    let domain = device.new_domain("next").create().unwrap();
    domain.attach(&device).unwrap().leave().unwrap();
    drop((opened, own, domains, domain, device));
    rig.check();
}
