//! Explicit domains: what clients make of them, and how they end (R1, R3, R4, R7).

use dma_types::PciAddress;
use iommu_engine::ledger::Ledger;
use iommu_engine::policy::{Policy, Quotas};
use iommu_service::records::ExplicitRecord;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::protocol::derive::Kind;
use libdma::protocol::domain::{Create, DomainInfo, Enter, Leave};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket, derive};
use libdma::{Access, Device, Domain, Error, Handle, Iova, Mapped};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::chosen::piece;
use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    a_device_in_a_domain_reaches_what_is_mapped_there_and_nothing_of_its_own,
    a_domain_has_a_window_and_maps_nothing_beyond,
    two_devices_see_one_buffer_at_one_address,
    a_device_of_another_process_enters_by_a_ticket,
    r4_a_domain_whose_session_dies_lets_the_devices_in_it_go_home,
    r4_a_driver_that_dies_in_anothers_domain_leaves_it_as_it_is,
    r4_a_domain_ends_with_its_last_handle,
    r2_what_was_mapped_in_a_domain_waits_for_a_slow_unit,
    r7_an_enter_that_is_refused_leaves_the_device_where_it_was,
    r3_a_group_with_another_driver_does_not_enter_and_is_not_joined_inside,
    r3_domains_handles_do_what_their_rights_say,
    r3_a_ticket_of_a_buffer_is_none_of_a_domain_nor_the_other_way,
    r5_requests_that_make_no_sense_are_refused,
    domains_count_as_buffers,
    a_guard_of_a_domain_that_was_left_moves_nothing,
    r7_an_enter_that_hardware_never_confirms_is_an_error_and_all_ends_well,
    r2_a_unit_that_fails_in_a_domain_keeps_what_was_mapped_there_for_good,
    a_domain_is_written_down_and_struck_out,
    a_domain_is_reported_with_its_window_and_what_is_in_it,
}

const PAGE: u64 = 4096;
const FIXED: Iova = Iova::new(0x5000_0000);

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn open(rig: &Rig, address: PciAddress) -> Device {
    let device = Device::open(rig.transport(), address).unwrap();
    rig.service.lock().platform_mut().machine_mut().config_write(address, 4, 6);
    device
}

fn writes(rig: &Rig, device: PciAddress, iova: Iova) -> bool {
    rig.service.lock().platform().machine_mut().dma_write(device, iova.get(), &[7; 8]).is_ok()
}

/// A domain with a page at [`FIXED`].
fn with_page(device: &Device, buffer: &libdma::Buffer) -> (Domain, Mapped) {
    let domain = device.new_domain("shared").create().unwrap();
    let mapped = domain.map_at(FIXED, &[piece(buffer, 0, PAGE)]).unwrap()[0];
    (domain, mapped)
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

fn a_domain_has_a_window_and_maps_nothing_beyond(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "buffer").unwrap();
    let domain = device.new_domain("window").window(FIXED, 4 * PAGE).create().unwrap();
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
        assert_eq!(refused, Err(Error::OutsideWindow), "{outside:#x}");
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
        let refused = device.new_domain("").window(Iova::new(base), bytes).create();
        assert_eq!(refused.err(), Some(error), "{base:#x}, {bytes:#x}");
    }
    // Without a window it is what the device reaches, and who reaches less does not enter.
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

/// Closes a device's handle under its driver, as a death that closes it before all others.
fn end_session(rig: &Rig, device: &Device) {
    let handle = iommu_service::handle::HandleId(device.handle().raw().number());
    rig.service.lock().close(handle);
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

fn r3_a_group_with_another_driver_does_not_enter_and_is_not_joined_inside(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, two]: [PciAddress; 2] = ["12:00.0", "13:00.0"].map(|it| it.parse().unwrap());
    let (first, second) = (open(&rig, one), open(&rig, two));
    let maker = rig.open();
    let domain = maker.new_domain("group").create().unwrap();
    assert_eq!(domain.attach(&first).err(), Some(Error::DeviceBusy));
    drop(second);
    let inside = domain.attach(&first).unwrap();
    // Who came now would be where the other is, with memory that is none of its business.
    assert_eq!(Device::open(rig.transport(), two).err(), Some(Error::DeviceBusy));
    inside.leave().unwrap();
    let second = open(&rig, two);
    assert_eq!(second.domain(), first.domain());
    rig.check();
}

fn r3_domains_handles_do_what_their_rights_say(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("shared").create().unwrap();
    let with = |rights: Rights| {
        let kind = U32::new(Kind::Copy as u32);
        let copy = derive::Copy { kind, rights: U32::new(rights.bits()) };
        domain.handle().derive(&copy)
    };
    let offer = |handle: &Handle| {
        let mut offer = Offer::default();
        handle.call_bytes(Opcode::Offer, offer.as_mut_bytes()).map(drop)
    };
    let info = |handle: &Handle| handle.call::<DomainInfo>(Opcode::DomainInfo, &[0u8; 0]).map(drop);
    let map = |handle: &Handle| {
        let entry = crate::chosen::entry(&buffer, 0, 0);
        let mut payload = [&[1u8, 0, 0, 0][..], &[0; 12], entry.as_bytes()].concat();
        handle.call_bytes(Opcode::Map, &mut payload).map(drop)
    };
    let (no, yes) = (Err(Error::NotPermitted), Ok(()));
    for (rights, expected) in [
        (Rights::MAP, [yes, no, no]),
        (Rights::INSPECT, [no, yes, no]),
        (Rights::SHARE, [no, no, yes]),
    ] {
        let weak = with(rights).unwrap();
        assert_eq!([map(&weak), info(&weak), offer(&weak)], expected, "{rights:?}");
    }
    for more in [Rights::ALLOCATE, Rights::READ, Rights::WRITE] {
        assert_eq!(with(more).err(), Some(Error::NotPermitted));
    }
    // It is no device, and no buffer.
    let handle = domain.handle();
    for opcode in [Opcode::DeviceInfo, Opcode::BufferInfo, Opcode::Enter, Opcode::Leave] {
        let refused = handle.call_bytes(opcode, &mut [0; 64]);
        assert_eq!(refused, Err(Error::WrongHandleKind), "{opcode:?}");
    }
    // A device handle that may not allocate makes none, and one that may not map moves nothing.
    let weak = device.derive(Rights::DEVICE - Rights::ALLOCATE - Rights::MAP).unwrap();
    let weak = Device::from_handle(weak).unwrap();
    assert_eq!(weak.new_domain("").create().err(), Some(Error::NotPermitted));
    assert_eq!(domain.attach(&weak).err(), Some(Error::NotPermitted));
    rig.check();
}

fn r3_a_ticket_of_a_buffer_is_none_of_a_domain_nor_the_other_way(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, guest) = (rig.open(), open(&rig, other()));
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("shared").create().unwrap();
    let ticket = crate::tickets::offer(buffer.handle(), Rights::INSPECT, None).unwrap();
    assert_eq!(guest.enter(&Ticket(ticket)).err(), Some(Error::BadTicket));
    let ticket = domain.ticket().unwrap();
    let refused = guest.attach(&ticket, Access::Read, "a domain");
    assert_eq!(refused.err(), Some(Error::NotPermitted), "it offers no memory");
    let refused = crate::tickets::attach(&guest, ticket.0, Rights::empty(), None);
    assert_eq!(refused.err(), Some(Error::BadTicket));
    rig.check();
}

fn r5_requests_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let good = Create {
        kind: U32::new(Kind::Domain as u32),
        reserved: U32::ZERO,
        base: U64::ZERO,
        bytes: U64::ZERO,
        label: *b"label\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    for (bad, error) in [
        (Create { reserved: U32::new(1), ..good }, Error::BadValue),
        (Create { label: [0xff; 32], ..good }, Error::BadValue),
        (Create { base: U64::new(PAGE), ..good }, Error::ZeroSize),
        (Create { bytes: U64::new(u64::MAX), ..good }, Error::BadAlignment),
    ] {
        assert_eq!(device.handle().derive(&bad).err(), Some(error), "{bad:?}");
    }
    let short = &good.as_bytes()[..40];
    let refused = rig.transport().derive(device.handle().raw(), short);
    assert_eq!(refused, Err(Error::ShortPayload));
    let domain = device.handle().derive(&good).unwrap();
    let mut payload = [0; 64];
    assert_eq!(domain.call_bytes(Opcode::DomainInfo, &mut payload), Err(Error::NoHandshake));
    let _: Welcome = domain.call(Opcode::Hello, &Hello::new()).unwrap();
    for request in [Kind::Domain, Kind::Allocate, Kind::Attach, Kind::Register] {
        let mut bytes = [0; 128];
        bytes[0] = request as u8;
        let refused = rig.transport().derive(domain.raw(), &bytes);
        assert!(matches!(refused, Err(Error::NotPermitted | Error::WrongHandleKind)));
    }
    let bad = Offer { rights: U32::new(Rights::SHARE.bits()), ..Offer::default() };
    for mut offer in [bad, Offer { bytes: U64::new(1), ..Offer::default() }] {
        let refused = domain.call_bytes(Opcode::Offer, offer.as_mut_bytes());
        assert_eq!(refused, Err(Error::BadValue), "{offer:?}");
    }
    for (opcode, most) in [
        (Opcode::Enter, size_of::<Enter>()),
        (Opcode::Leave, size_of::<Leave>()),
        (Opcode::Lookup, 8),
    ] {
        for length in 0..most {
            let refused = device.handle().call_bytes(opcode, &mut payload[..length]);
            assert_eq!(refused, Err(Error::ShortPayload), "{opcode:?}, {length} bytes");
        }
    }
    let leave = device.handle().call_bytes(Opcode::Leave, &mut payload);
    assert_eq!(leave, Err(Error::NotEntered));
    rig.check();
}

fn domains_count_as_buffers(vendor: Vendor) {
    let quotas = Quotas { buffers: 3, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let device = rig.open();
    let _buffer = device.allocate(PAGE, None, "one").unwrap();
    let domains = [(); 2].map(|()| device.new_domain("").create().unwrap());
    assert_eq!(device.new_domain("").create().err(), Some(Error::QuotaExceeded));
    assert_eq!(device.allocate(PAGE, None, "more").err(), Some(Error::QuotaExceeded));
    drop(domains);
    device.new_domain("").create().unwrap();
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

fn a_domain_is_written_down_and_struck_out(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let records = || -> Vec<ExplicitRecord> {
        let service = rig.service.lock();
        let found = Ledger::records(service.platform()).unwrap();
        found.into_iter().map(|(_, record)| record).collect()
    };
    let device = rig.open();
    let domain = device.new_domain("fixed").window(FIXED, 2 * PAGE).create().unwrap();
    let [record] = records()[..] else { panic!("not one record") };
    assert_eq!((record.domain, record.window.start), (domain.id(), FIXED));
    assert_eq!((record.window.bytes, &record.label[..6]), (2 * PAGE, &b"fixed\0"[..]));
    drop(domain);
    assert_eq!(records(), []);
    let _domain = device.new_domain("more").create().unwrap();
    end_session(&rig, &device);
    assert_eq!(records(), []);
    std::mem::forget(device);
    rig.check();
}

fn a_domain_is_reported_with_its_window_and_what_is_in_it(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_root_port());
    let (device, guest) = (rig.open(), open(&rig, other()));
    let buffer = device.allocate(PAGE, None, "ring").unwrap();
    let domain = device.new_domain("shared").window(FIXED, 1 << 20).create().unwrap();
    domain.map_at(FIXED, &[piece(&buffer, 0, PAGE)]).unwrap();
    let _inside = domain.attach(&guest).unwrap();
    let rows = rig.json("domains");
    let row = rows.as_array().unwrap().iter().find(|row| row["domain"] == domain.id()).unwrap();
    assert_eq!(row["window"], "0x50000000..=0x500fffff");
    assert_eq!((&row["label"], &row["made_by"]), (&"shared".into(), &"0000:00:02.0".into()));
    assert_eq!(row["mappings"], 1);
    assert!(row["devices"].as_array().unwrap().contains(&"0000:01:00.0".into()));
    let text = rig.text("domains");
    let note = "    shared: made by the driver of 0000:00:02.0, maps in 0x50000000..=0x500fffff\n";
    assert!(text.contains(note), "{text}");
    let own = rows.as_array().unwrap().iter().find(|row| row["domain"] == device.domain());
    assert_eq!(own.unwrap()["window"], serde_json::Value::Null);
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
