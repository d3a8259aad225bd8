//! What a driver is told of its device's blocked accesses, and when (R3, R5).

use dma_types::PciAddress;
use iommu_service::HandleId;
use iommu_service::faults::events::UNREAD;
use iommu_sim::MachineConfig;
use iommu_sim::machine::{FunctionConfig, UnitConfig};
use libdma::fault::{Reason, Tried};
use libdma::protocol::call::Opcode;
use libdma::protocol::event::{EventRecord, EventsHeader};
use libdma::protocol::{MAX_BATCH, Rights};
use libdma::{Device, Error, Events};
use zerocopy::{FromBytes, IntoBytes};

use crate::hostile::{call, device as device_handle, greet};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    a_driver_reads_what_its_device_was_denied_and_reads_it_once,
    who_asks_is_told_of_what_the_unit_has_just_recorded,
    r3_what_was_denied_before_is_not_told_to_the_next_driver,
    r3_drivers_of_one_group_are_told_of_their_own_device_alone,
    what_signs_as_nobodys_device_is_told_to_its_whole_group,
    devices_that_sign_alike_are_told_of_each_other,
    r5_a_driver_that_never_reads_loses_the_oldest_and_learns_how_many,
    r3_a_handle_that_may_not_inspect_learns_of_no_fault,
    r5_requests_for_faults_that_make_no_sense_are_refused,
    a_watched_handle_is_named_once_until_it_was_read,
    reading_some_of_the_faults_names_the_handle_again,
    each_watched_handle_of_a_session_is_named_and_no_other,
    the_domain_of_a_fault_is_where_the_device_was_and_not_where_it_has_gone,
    r3_what_was_denied_before_a_driver_went_is_not_told_to_its_neighbour,
}

fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

/// Lets a device write where it may not.
fn offend_unseen(rig: &Rig, device: PciAddress, iova: u64) {
    let mut service = rig.service.lock();
    service.platform_mut().machine_mut().config_write(device, 4, 6);
    service.platform().machine_mut().dma_write(device, iova, &[1; 8]).unwrap_err();
}

/// The same, and lets iommud learn of it.
fn offend(rig: &Rig, device: PciAddress, iova: u64) {
    offend_unseen(rig, device, iova);
    rig.service.lock().poll();
}

fn addresses(events: &Events) -> Vec<u64> {
    events.faults().map(|fault| fault.address.get()).collect()
}

fn read(device: &Device) -> Vec<u64> {
    addresses(&device.events().unwrap())
}

fn a_driver_reads_what_its_device_was_denied_and_reads_it_once(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    assert_eq!(device.events(), Ok(Events::default()));
    offend(&rig, edu(), 0x5000);
    offend(&rig, edu(), 0x5000);
    offend(&rig, edu(), 0x9000);
    let faults = device.events().unwrap();
    assert_eq!(addresses(&faults), [0x5000, 0x9000]);
    let (first, last) = (faults.faults().next().unwrap(), faults.faults().last().unwrap());
    assert_eq!((first.requester, first.times), (edu(), 2));
    assert_eq!((first.tried, first.reason), (Tried::Write, Reason::NotWritable));
    assert!(first.at <= last.at);
    assert_eq!(device.events(), Ok(Events::default()));
    // A copy of the handle is of the same session.
    offend(&rig, edu(), 0x5000);
    let copy = Device::from_handle(device.derive(Rights::INSPECT).unwrap()).unwrap();
    assert_eq!(read(&copy), [0x5000]);
    assert!(read(&device).is_empty());
}

fn who_asks_is_told_of_what_the_unit_has_just_recorded(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    offend_unseen(&rig, edu(), 0x5000);
    assert_eq!(read(&device), [0x5000]);
    offend_unseen(&rig, edu(), 0x6000);
    assert!(watch(&rig, &device, true).1);
}

fn r3_what_was_denied_before_is_not_told_to_the_next_driver(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let first = rig.open();
    offend(&rig, edu(), 0x5000);
    drop(first);
    // Not yet read from the unit when the next driver comes.
    offend_unseen(&rig, edu(), 0x6000);
    let second = rig.open();
    assert!(read(&second).is_empty());
    offend(&rig, edu(), 0x7000);
    assert_eq!(read(&second), [0x7000]);
}

fn r3_drivers_of_one_group_are_told_of_their_own_device_alone(vendor: Vendor) {
    let cards = ["12:00.0", "13:00.0"].map(at);
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, other] = cards.map(|card| Device::open(rig.transport(), card).unwrap());
    let elsewhere = rig.open();
    assert_eq!(one.domain(), other.domain());
    offend(&rig, cards[0], 0x5000);
    offend(&rig, cards[1], 0x6000);
    offend(&rig, edu(), 0x7000);
    assert_eq!(read(&one), [0x5000]);
    assert_eq!(read(&other), [0x6000]);
    assert_eq!(read(&elsewhere), [0x7000]);
}

#[test]
fn r3_a_device_of_the_same_number_in_another_segment_is_another() {
    let mut config = MachineConfig::default();
    let second = UnitConfig { base: 0xfe01_0000, segment: 1, ..config.units[0].clone() };
    config.units.push(second);
    let card = at("0001:00:02.0");
    config.functions.push(FunctionConfig::endpoint(card));
    let rig = Rig::on(config);
    let (here, there) = (rig.open(), Device::open(rig.transport(), card).unwrap());
    offend(&rig, card, 0x5000);
    assert!(read(&here).is_empty());
    let faults = there.events().unwrap();
    assert_eq!(
        (addresses(&faults), faults.faults().next().unwrap().requester),
        ([0x5000].into(), card)
    );
}

#[test]
fn interrupts_for_faults_are_counted_in_the_report() {
    let rig = Rig::new(Vendor::Vtd);
    let counted = || {
        let rows = rig.json("config");
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "fault interrupts");
        row.unwrap()["value"].clone()
    };
    assert_eq!(counted(), "0");
    for interrupts in [2, 3] {
        rig.service.lock().count_fault_interrupts(interrupts);
    }
    assert_eq!(counted(), "5");
}

fn what_signs_as_nobodys_device_is_told_to_its_whole_group(vendor: Vendor) {
    let cards = ["12:00.0", "13:00.0"].map(at);
    let rig = Rig::on(vendor.machine().with_switch(None));
    let held = Device::open(rig.transport(), cards[0]).unwrap();
    let elsewhere = rig.open();
    offend(&rig, cards[1], 0x6000);
    let faults = held.events().unwrap();
    assert_eq!(addresses(&faults), [0x6000]);
    assert_eq!(faults.faults().next().unwrap().requester, cards[1]);
    assert!(read(&elsewhere).is_empty());
}

fn devices_that_sign_alike_are_told_of_each_other(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_pci_bridge());
    let cards = ["21:01.0", "22:00.0"].map(at);
    let [one, other] = cards.map(|card| Device::open(rig.transport(), card).unwrap());
    offend(&rig, cards[0], 0x5000);
    for device in [&one, &other] {
        let faults = device.events().unwrap();
        assert_eq!(addresses(&faults), [0x5000]);
        assert_eq!(faults.faults().next().unwrap().requester, at("21:00.0"));
    }
}

fn r5_a_driver_that_never_reads_loses_the_oldest_and_learns_how_many(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let wild = UNREAD as u64 + 3;
    offend(&rig, edu(), 0x1000);
    for page in 1..=wild {
        offend(&rig, edu(), page << 12);
    }
    // The first counted twice, and two others.
    let faults = device.events().unwrap();
    assert_eq!(faults.dropped, 4);
    assert_eq!(addresses(&faults), (4..=wild).map(|page| page << 12).collect::<Vec<_>>());
    offend(&rig, edu(), 0x1000);
    assert_eq!(device.events().unwrap().dropped, 0, "it was told");
}

fn r3_a_handle_that_may_not_inspect_learns_of_no_fault(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let blind = device.derive(Rights::MAP).unwrap();
    let mut payload = request(1);
    let id = HandleId(blind.raw().number());
    greet(&mut rig.service.lock(), id);
    let refused = blind.call_bytes(Opcode::Events, &mut payload);
    assert_eq!(refused, Err(Error::NotPermitted));
    assert_eq!(rig.service.lock().watch(id, true), Err(Error::NotPermitted));
}

/// A request with room for this many records.
fn request(room: u32) -> Vec<u8> {
    let header = EventsHeader { count: room.into(), left: 0.into(), dropped: 0.into() };
    let room = room as usize * size_of::<EventRecord>();
    [header.as_bytes(), &vec![0; room]].concat()
}

fn r5_requests_for_faults_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device_handle(&mut service);
    let mut ask = |mut payload: Vec<u8>| call(&mut service, device, 20, &mut payload);
    assert_eq!(ask(request(1)), Ok(16));
    assert_eq!(ask(request(MAX_BATCH as u32)), Ok(16));
    assert_eq!(ask(Vec::new()), Err(Error::ShortPayload));
    assert_eq!(ask(request(1)[..15].to_vec()), Err(Error::ShortPayload));
    assert_eq!(ask(request(1)[..135].to_vec()), Err(Error::ShortPayload));
    assert_eq!(ask(request(0)), Err(Error::EmptyBatch));
    assert_eq!(ask(request(MAX_BATCH as u32 + 1)), Err(Error::BatchTooLarge));
    for byte in 4..16 {
        let mut odd = request(1);
        odd[byte] = 1;
        assert_eq!(ask(odd), Err(Error::BadValue), "{byte}");
    }
    let root = service.root();
    assert_eq!(call(&mut service, root, 20, &mut request(1)), Err(Error::WrongHandleKind));
    assert_eq!(service.watch(root, true), Err(Error::WrongHandleKind));
    assert_eq!(service.watch(HandleId(u64::MAX), true), Err(Error::BadHandle));
}

fn readable(rig: &Rig) -> Vec<HandleId> {
    rig.service.lock().take_readable()
}

fn watch(rig: &Rig, device: &Device, wanted: bool) -> (HandleId, bool) {
    let id = HandleId(device.handle().raw().number());
    (id, rig.service.lock().watch(id, wanted).unwrap())
}

fn a_watched_handle_is_named_once_until_it_was_read(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let (id, now) = watch(&rig, &device, true);
    assert!(!now && readable(&rig).is_empty());
    offend(&rig, edu(), 0x5000);
    assert_eq!(readable(&rig), [id]);
    offend(&rig, edu(), 0x6000);
    assert!(readable(&rig).is_empty(), "it knows");
    assert_eq!(read(&device), [0x5000, 0x6000]);
    assert!(readable(&rig).is_empty(), "there is nothing");
    offend(&rig, edu(), 0x5000);
    assert_eq!(readable(&rig), [id]);
    // Whoever asks anew is told at once, and not a second time.
    assert_eq!(watch(&rig, &device, true), (id, true));
    assert!(readable(&rig).is_empty());
    offend(&rig, edu(), 0x6000);
    assert!(readable(&rig).is_empty(), "nor when there are more");
    read(&device);
    assert_eq!(watch(&rig, &device, false), (id, false));
    offend(&rig, edu(), 0x5000);
    assert!(readable(&rig).is_empty(), "it asks no more");
}

fn reading_some_of_the_faults_names_the_handle_again(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let (id, _) = watch(&rig, &device, true);
    offend(&rig, edu(), 0x5000);
    offend(&rig, edu(), 0x6000);
    assert_eq!(readable(&rig), [id]);
    let mut payload = request(1);
    assert_eq!(device.handle().call_bytes(Opcode::Events, &mut payload), Ok(136));
    let header = EventsHeader::read_from_prefix(&payload).unwrap().0;
    assert_eq!((header.count.get(), header.left.get()), (1, 1));
    assert_eq!(readable(&rig), [id]);
}

fn each_watched_handle_of_a_session_is_named_and_no_other(vendor: Vendor) {
    let cards = ["12:00.0", "13:00.0"].map(at);
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, other] = cards.map(|card| Device::open(rig.transport(), card).unwrap());
    let copy = Device::from_handle(one.derive(Rights::INSPECT).unwrap()).unwrap();
    let unwatched = Device::from_handle(one.derive(Rights::INSPECT).unwrap()).unwrap();
    let ids = [&one, &copy, &other].map(|device| watch(&rig, device, true).0);
    // A copy of a watched handle is not watched for that.
    let second = Device::from_handle(one.derive(Rights::INSPECT).unwrap()).unwrap();
    offend(&rig, cards[0], 0x5000);
    assert_eq!(readable(&rig), ids[..2]);
    drop(copy);
    assert_eq!(read(&unwatched), [0x5000]);
    offend(&rig, cards[0], 0x5000);
    assert!(readable(&rig).is_empty(), "it has not been used since it was told");
    assert_eq!(read(&one), [0x5000]);
    offend(&rig, cards[0], 0x5000);
    assert_eq!(readable(&rig), ids[..1], "the copy is gone");
    drop(second);
}

fn the_domain_of_a_fault_is_where_the_device_was_and_not_where_it_has_gone(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let domain = device.new_domain("apart").create().unwrap();
    offend_unseen(&rig, edu(), 0x5000);
    let inside = domain.attach(&device).unwrap();
    offend_unseen(&rig, edu(), 0x6000);
    inside.leave().unwrap();
    let inside = domain.attach(&device).unwrap();
    offend_unseen(&rig, edu(), 0x7000);
    let apart = domain.id();
    drop(domain);
    let domains: Vec<_> = device.events().unwrap().faults().map(|fault| fault.domain).collect();
    assert_eq!(domains, [Some(device.domain()), Some(apart), Some(apart)]);
    drop(inside);
}

fn r3_what_was_denied_before_a_driver_went_is_not_told_to_its_neighbour(vendor: Vendor) {
    let cards = ["12:00.0", "13:00.0"].map(at);
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, other] = cards.map(|card| Device::open(rig.transport(), card).unwrap());
    offend_unseen(&rig, cards[0], 0x5000);
    drop(one);
    assert!(read(&other).is_empty());
}
