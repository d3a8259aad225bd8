//! What is behind a blocked access, as its device's driver is told (R3).

use std::time::Duration;

use dma_types::PciAddress;
use iommu_engine::platform::Platform;
use iommu_engine::policy::Policy;
use iommu_service::faults::history::REMEMBERED;
use libdma::fault::{Behind, Life, Reason, Tried};
use libdma::{Access, Device, Event, Fault, Iova};

use crate::chosen::piece;
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    a_fault_tells_everything_of_a_mapping_with_fewer_rights,
    a_fault_tells_how_long_ago_what_was_there_was_unmapped,
    what_was_unmapped_last_explains_and_what_is_mapped_since_does_not,
    an_access_just_beyond_a_buffer_names_it,
    an_access_where_nothing_was_is_not_explained,
    a_buffer_that_was_dropped_is_remembered_with_its_label,
    what_is_mapped_in_another_domain_of_the_driver_is_named_with_it,
    a_domain_that_has_ended_is_remembered,
    the_last_unmaps_are_remembered_and_no_more,
    r3_a_neighbour_in_the_same_domain_explains_nothing,
    r3_what_others_map_in_their_domain_explains_nothing_to_its_guests,
    r3_an_earlier_session_explains_nothing,
    the_same_again_is_told_by_itself_if_another_buffer_is_behind_it,
}

const PAGE: u64 = 4096;

fn rig(vendor: Vendor) -> Rig {
    Rig::with_manual_clock(vendor.machine(), Policy::default())
}

/// How a device writes where it may not.
fn offend(rig: &Rig, device: PciAddress, address: u64) {
    let mut service = rig.service.lock();
    service.platform_mut().machine_mut().config_write(device, 4, 6);
    service.platform().machine_mut().dma_write(device, address, &[1; 8]).unwrap_err();
    service.poll();
}

fn faults(device: &Device) -> Vec<Fault> {
    device.events().unwrap().faults().copied().collect()
}

/// The one fault that a driver is told of when its device writes there.
fn denied(rig: &Rig, device: &Device, address: u64) -> Fault {
    offend(rig, device.address(), address);
    let told = faults(device);
    let [fault] = told[..] else { panic!("{told:?}") };
    fault
}

fn behind(rig: &Rig, device: &Device, address: u64) -> Option<Behind> {
    denied(rig, device, address).behind
}

/// How much of an address a unit records.
fn seen(vendor: Vendor, address: u64) -> u64 {
    match vendor {
        Vendor::Vtd => address & !0xfff,
        Vendor::Amdvi => address,
    }
}

fn a_fault_tells_everything_of_a_mapping_with_fewer_rights(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(4 * PAGE, None, "descriptor ring").unwrap();
    let mapped = device
        .map(&[libdma::MapRequest { access: Access::Read, ..piece(&buffer, PAGE, 2 * PAGE) }])
        .unwrap()[0];
    let (start, now) = (mapped.iova().get(), Duration::from_nanos(7_000_000_123));
    let passed = rig.service.lock().platform().now().as_nanos();
    rig.pass(now - Duration::from_nanos(passed));
    let address = start + PAGE + 0x123;
    let fault = denied(&rig, &device, address);
    let address = seen(vendor, address);
    let expected = Fault {
        requester: edu(),
        address: Iova::new(address),
        tried: Tried::Write,
        reason: Reason::NotWritable,
        times: 1,
        at: now,
        domain: Some(device.domain()),
        behind: Some(Behind {
            life: Life::Mapped,
            buffer: buffer.id(),
            label: fault.behind.unwrap().label,
            offset: PAGE + (address - start),
            access: Access::Read,
            domain: device.domain(),
            is_within_reach: true,
        }),
    };
    assert_eq!(fault, expected);
    assert_eq!(fault.behind.unwrap().label.as_str(), "descriptor ring");
    assert_eq!(
        Event::Fault(fault).to_string(),
        format!(
            "0000:00:02.0 was denied a write to {address:#x}: the page is not mapped for writing; that is offset \
             {:#x} of buffer \"descriptor ring\", which is mapped for reading",
            PAGE + (address - start)
        )
    );
    // Where it may, there is nothing to be told.
    rig.device_reads(start, 8).unwrap();
    assert!(faults(&device).is_empty());
}

fn a_fault_tells_how_long_ago_what_was_there_was_unmapped(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "rx").unwrap();
    let mapped = device.map(&[piece(&buffer, PAGE, PAGE)]).unwrap();
    let start = mapped[0].iova().get();
    device.unmap(&mapped).unwrap();
    rig.pass(Duration::from_micros(1234));
    let fault = denied(&rig, &device, start + 8);
    let behind = fault.behind.unwrap();
    let address = seen(vendor, start + 8);
    let life = Life::Unmapped { before: Duration::from_micros(1234) };
    assert_eq!((behind.life, behind.buffer, behind.label.as_str()), (life, buffer.id(), "rx"));
    assert_eq!((behind.offset, behind.access), (PAGE + address - start, Access::ReadWrite));
    assert_eq!((behind.domain, behind.is_within_reach), (device.domain(), true));
    let sentence = Event::Fault(fault).to_string();
    assert!(
        sentence.ends_with(
            "of buffer \"rx\", which was mapped for reading and writing and unmapped 1234 µs before"
        ),
        "{sentence}"
    );
    // Until it is told, the explanation stays as it was when the fault was read from the unit.
    offend(&rig, edu(), start);
    rig.pass(Duration::from_secs(1));
    let told = faults(&device)[0].behind.unwrap();
    assert_eq!(told.life, life);
}

fn what_was_unmapped_last_explains_and_what_is_mapped_since_does_not(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let [first, second] = ["first", "second"].map(|it| device.allocate(PAGE, None, it).unwrap());
    let mapped = device.map(&[piece(&first, 0, PAGE)]).unwrap();
    let start = mapped[0].iova().get();
    device.unmap(&mapped).unwrap();
    rig.pass(Duration::from_micros(5));
    assert_eq!(behind(&rig, &device, start).unwrap().label.as_str(), "first");
    let at = device.map(&[piece(&second, 0, PAGE)]).unwrap();
    assert_eq!(at[0].iova().get(), start, "the address is given out again");
    device.unmap(&at).unwrap();
    let last = behind(&rig, &device, start).unwrap();
    assert_eq!((last.label.as_str(), last.buffer), ("second", second.id()));

    // Blocked before what allows it was mapped, and read from the unit after.
    let mut service = rig.service.lock();
    service.platform_mut().machine_mut().dma_write(edu(), start, &[1; 8]).unwrap_err();
    drop(service);
    device.map(&[piece(&first, 0, PAGE)]).unwrap();
    let told = faults(&device)[0].behind.unwrap();
    assert_eq!(
        (told.label.as_str(), told.life),
        ("second", Life::Unmapped { before: Duration::ZERO })
    );
}

fn an_access_just_beyond_a_buffer_names_it(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * PAGE, Some(Access::Write), "packets").unwrap();
    let end = buffer.iova().unwrap().get() + 2 * PAGE;
    let beyond = behind(&rig, &device, end + 16).unwrap();
    assert_eq!((beyond.life, beyond.label.as_str()), (Life::Beyond, "packets"));
    assert_eq!(
        (beyond.offset, beyond.access),
        (seen(vendor, end + 16) - end + 2 * PAGE, Access::Write)
    );
    assert_eq!(behind(&rig, &device, end + PAGE), None, "a page further");
    // Once there is nothing any more, there is nothing that it could go on from.
    drop(buffer);
    assert_eq!(behind(&rig, &device, end), None);
}

fn an_access_where_nothing_was_is_not_explained(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let fault = denied(&rig, &device, 0x7_0000_0000);
    assert_eq!((fault.behind, fault.domain), (None, Some(device.domain())));
    let sentence = Event::Fault(fault).to_string();
    assert!(sentence.ends_with("; nothing that iommud remembers was mapped there"), "{sentence}");
}

fn a_buffer_that_was_dropped_is_remembered_with_its_label(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let label = "x".repeat(32);
    let buffer = device.allocate(PAGE, Some(Access::Read), &label).unwrap();
    let (start, id) = (buffer.iova().unwrap().get(), buffer.id());
    drop(buffer);
    rig.pass(Duration::from_micros(15));
    let gone = behind(&rig, &device, start).unwrap();
    assert_eq!((gone.label.as_str(), gone.buffer, gone.access), (&*label, id, Access::Read));
    assert_eq!(gone.life, Life::Unmapped { before: Duration::from_micros(15) });
}

fn what_is_mapped_in_another_domain_of_the_driver_is_named_with_it(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let own = device.allocate(PAGE, Some(Access::ReadWrite), "own").unwrap();
    let start = own.iova().unwrap().get();
    let shared = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("fixed").create().unwrap();
    let fixed = Iova::new(0x5000_0000);
    let mapped = domain.map_at(fixed, &[piece(&shared, 0, PAGE)]).unwrap();
    let inside = domain.attach(&device).unwrap();
    let fault = denied(&rig, &device, start);
    assert_eq!(fault.domain, Some(domain.id()));
    let away = fault.behind.unwrap();
    assert_eq!(
        (away.life, away.domain, away.is_within_reach),
        (Life::Mapped, device.domain(), false)
    );
    assert_eq!(away.label.as_str(), "own");
    domain.unmap(&mapped).unwrap();
    let gone = behind(&rig, &device, fixed.get()).unwrap();
    assert_eq!(
        (gone.label.as_str(), gone.domain, gone.is_within_reach),
        ("shared", domain.id(), true)
    );
    inside.leave().unwrap();
    let left = behind(&rig, &device, fixed.get()).unwrap();
    assert_eq!((left.domain, left.is_within_reach), (domain.id(), false));
}

fn a_domain_that_has_ended_is_remembered(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "table").unwrap();
    let domain = device.new_domain("fixed").create().unwrap();
    let (id, fixed) = (domain.id(), Iova::new(0x5000_0000));
    domain.map_at(fixed, &[piece(&buffer, 0, PAGE)]).unwrap();
    drop(domain);
    rig.pass(Duration::from_micros(2));
    let gone = behind(&rig, &device, fixed.get()).unwrap();
    assert_eq!((gone.label.as_str(), gone.domain, gone.is_within_reach), ("table", id, false));
    assert_eq!(gone.life, Life::Unmapped { before: Duration::from_micros(2) });
}

fn the_last_unmaps_are_remembered_and_no_more(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "first").unwrap();
    let domain = device.new_domain("fixed").create().unwrap();
    let inside = domain.attach(&device).unwrap();
    let place = |page: u64| Iova::new(0x5000_0000 + page * PAGE);
    let touch = |page| {
        let mapped = domain.map_at(place(page), &[piece(&buffer, 0, PAGE)]).unwrap();
        domain.unmap(&mapped).unwrap();
    };
    touch(0);
    (1..REMEMBERED as u64).for_each(touch);
    assert_eq!(behind(&rig, &device, place(0).get()).unwrap().label.as_str(), "first");
    touch(REMEMBERED as u64);
    assert_eq!(behind(&rig, &device, place(0).get()), None);
    assert!(behind(&rig, &device, place(1).get()).is_some());
    assert!(behind(&rig, &device, place(REMEMBERED as u64).get()).is_some());
    drop(inside);
}

fn r3_a_neighbour_in_the_same_domain_explains_nothing(vendor: Vendor) {
    let cards: [PciAddress; 2] = ["12:00.0", "13:00.0"].map(|card| card.parse().unwrap());
    let config = vendor.machine().with_switch(None);
    let rig = Rig::with_manual_clock(config, Policy::default());
    let [one, other] = cards.map(|card| rig.open_at(card).unwrap());
    assert_eq!(one.domain(), other.domain());
    let secret = other.allocate(PAGE, Some(Access::Read), "secret").unwrap();
    let start = secret.iova().unwrap().get();
    assert_eq!(behind(&rig, &one, start), None, "mapped");
    assert_eq!(behind(&rig, &one, start + PAGE), None, "just beyond");
    assert_eq!(behind(&rig, &other, start).unwrap().label.as_str(), "secret");
    drop(secret);
    assert_eq!(behind(&rig, &one, start), None, "unmapped");
    assert_eq!(behind(&rig, &other, start).unwrap().label.as_str(), "secret");
}

fn r3_what_others_map_in_their_domain_explains_nothing_to_its_guests(vendor: Vendor) {
    let config = vendor.machine().with_root_port();
    let rig = Rig::with_manual_clock(config, Policy::default());
    let host = rig.open();
    let guest = rig.open_at("0000:01:00.0".parse().unwrap()).unwrap();
    let buffer = host.allocate(PAGE, None, "secret").unwrap();
    let domain = host.new_domain("shared").create().unwrap();
    let piece = libdma::MapRequest { access: Access::Read, ..piece(&buffer, 0, PAGE) };
    let mapped = domain.map(&[piece]).unwrap();
    let start = mapped[0].iova().get();
    let inside = domain.attach(&guest).unwrap();
    let fault = denied(&rig, &guest, start);
    assert_eq!((fault.domain, fault.behind), (Some(domain.id()), None));
    domain.unmap(&mapped).unwrap();
    assert_eq!(behind(&rig, &guest, start), None);
    drop(inside);
}

fn r3_an_earlier_session_explains_nothing(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, Some(Access::Read), "of before").unwrap();
    let start = buffer.iova().unwrap().get();
    drop((buffer, device));
    let next = rig.open();
    assert_eq!(behind(&rig, &next, start), None);
}

fn the_same_again_is_told_by_itself_if_another_buffer_is_behind_it(vendor: Vendor) {
    let rig = rig(vendor);
    let device = rig.open();
    let mut start = None;
    for label in ["first", "second"] {
        let buffer = device.allocate(PAGE, Some(Access::ReadWrite), label).unwrap();
        let iova = buffer.iova().unwrap().get();
        assert_eq!(*start.get_or_insert(iova), iova, "the address is given out again");
        drop(buffer);
        offend(&rig, edu(), iova);
        rig.pass(Duration::from_micros(3));
        offend(&rig, edu(), iova);
    }
    let told: Vec<_> = faults(&device);
    let told: Vec<_> = told.iter().map(|it| (it.behind.unwrap().label, it.times)).collect();
    let told: Vec<_> = told.iter().map(|(label, times)| (label.as_str(), *times)).collect();
    assert_eq!(told, [("first", 2), ("second", 2)]);
}
