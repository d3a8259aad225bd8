//! Buffers that several devices and processes share (R2, R3, R4).

use dma_types::PciAddress;
use iommu_engine::ledger::Ledger;
use iommu_engine::policy::{Policy, Quotas, WithoutIommu};
use iommu_service::records::BufferRecord;
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::Rights;
use libdma::protocol::call::{MapEntry, Opcode};
use libdma::{
    Access, AddressSpace, Buffer, Device, Error, Handle, Mapped, SharedBuffer, WrongDevice,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::hostile::allocate;
use crate::rig::{Rig, edu};
use crate::tickets::{attach, greeted, info, offer, open_other, weaker};
use crate::vendor::{Vendor, slow_down};

both! {
    two_devices_share_memory_each_at_its_address_and_with_its_access,
    r3_an_address_is_of_one_device,
    r3_what_is_attached_cannot_be_mapped_for_more_than_was_offered,
    r3_what_is_attached_is_not_offered_for_more_than_it_was_offered_itself,
    r3_neither_session_maps_or_unmaps_the_others_buffer,
    r4_whatever_ends_first_the_memory_lives_as_long_as_someone_has_it,
    r2_shared_memory_waits_for_the_slow_unit_of_a_device_that_let_it_go,
    a_device_may_attach_its_own_buffer_and_the_same_one_twice,
    a_neighbour_in_the_domain_attaches_at_an_address_of_its_own,
    what_is_attached_counts_in_its_own_sessions_quota,
    a_handle_without_the_right_to_write_is_memory_that_cannot_be_written,
    what_is_attached_can_be_passed_on_if_it_was_offered_so,
    reports_say_who_shares,
}

const ALL: Access = Access::ReadWrite;

fn other() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn rig(vendor: Vendor) -> (Rig, Device, Device) {
    let rig = Rig::on(vendor.two_units());
    let (one, two) = (rig.open(), open_other(&rig));
    (rig, one, two)
}

fn buffer(device: &Device) -> Buffer {
    device.allocate(8192, Some(ALL), "shared").unwrap()
}

/// Whether a device can write there; anything but a unit in its way is an error.
fn writes(rig: &Rig, device: PciAddress, iova: u64) -> bool {
    let result = rig.service.lock().platform().machine_mut().dma_write(device, iova, &[7; 8]);
    match result {
        Ok(()) => true,
        Err(why) if why.is_by_tables() => false,
        Err(other) => panic!("{device} at {iova:#x}: {other}"),
    }
}

fn reads(rig: &Rig, device: PciAddress, iova: u64) -> Option<[u8; 8]> {
    let mut data = [0; 8];
    let result = rig.service.lock().platform().machine_mut().dma_read(device, iova, &mut data);
    match result {
        Ok(()) => Some(data),
        Err(why) if why.is_by_tables() => None,
        Err(other) => panic!("{device} at {iova:#x}: {other}"),
    }
}

fn two_devices_share_memory_each_at_its_address_and_with_its_access(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let before = rig.usage();
    let buffer = buffer(&one);
    let attached = buffer.attach(&two, Access::Read, "to send").unwrap();
    let mine = buffer.io_address().unwrap().for_device(&one).unwrap().get();
    let yours = attached.io_address().for_device(&two).unwrap().get();
    assert!(writes(&rig, edu(), mine + 4096));
    assert_eq!(reads(&rig, other(), yours + 4096), Some([7; 8]));
    assert!(!writes(&rig, other(), yours), "R6: it was attached for reading");
    assert_eq!((attached.bytes(), attached.access()), (8192, Access::Read));
    drop(attached);
    assert_eq!(reads(&rig, other(), yours), None);
    assert!(writes(&rig, edu(), mine));
    drop(buffer);
    assert_eq!(rig.usage().live_runs, before.live_runs);
    rig.check();
}

fn r3_an_address_is_of_one_device(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let address = buffer.io_address().unwrap();
    let wrong = address.for_device(&two).unwrap_err();
    let own = |device, session| AddressSpace { device, session, domain: None };
    assert_eq!(wrong, WrongDevice { of: own(edu(), 1), given_to: own(other(), 2) });
    assert_eq!(
        wrong.to_string(),
        "this I/O address is of 0000:00:02.0 (session 1) and means nothing to 0000:01:00.0 (session 2): \
         attach the buffer to that device"
    );
    assert_eq!(Error::from(wrong), Error::WrongOwner);
    // Another handle to the same session is the same device.
    let same = Device::from_handle(one.derive(Rights::DEVICE).unwrap()).unwrap();
    assert_eq!(address.for_device(&same), Ok(buffer.iova().unwrap()));
    let further = address.at(8191).unwrap();
    assert_eq!((further.bytes(), further.device()), (1, edu()));
    assert_eq!(address.at(8192).err(), Some(Error::OutOfBuffer));
    assert_eq!(address.at(u64::MAX).err(), Some(Error::OutOfBuffer));
    // The next session of the device is another.
    let attached = buffer.attach(&two, Access::Read, "").unwrap();
    drop(same);
    let session_two = attached.io_address().for_device(&two).unwrap();
    assert_eq!(attached.io_address().for_device(&two), Ok(session_two));
    drop((buffer, one));
    let again = rig.open();
    let refused = attached.io_address().for_device(&again).unwrap_err();
    assert_eq!(refused, WrongDevice { of: own(other(), 2), given_to: own(edu(), 3) });
    rig.check();
}

fn map_entry(buffer: &Handle, access: u32) -> Vec<u8> {
    let entry = MapEntry {
        buffer: info(buffer).buffer,
        bytes: U64::new(4096),
        limit: U64::new(u64::MAX),
        access: U32::new(access),
        ..MapEntry::new_zeroed()
    };
    [&[1, 0, 0, 0], &[0; 12][..], entry.as_bytes()].concat()
}

pub(crate) fn map_by(device: &Device, buffer: &Handle, access: u32) -> Result<Mapped, Error> {
    let mut payload = map_entry(buffer, access);
    device.handle().call_bytes(Opcode::Map, &mut payload)?;
    match u32::from_le_bytes(payload[8..12].try_into().unwrap()) {
        0 => {
            let entry = MapEntry::read_from_bytes(&payload[16..]).unwrap();
            let iova = libdma::Iova::new(entry.iova.get());
            Ok(Mapped::new(device.bus_address(iova), entry.bytes.get()))
        }
        errno => Err(Error::from_errno(errno as u16)),
    }
}

fn r3_what_is_attached_cannot_be_mapped_for_more_than_was_offered(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let to_read = |access| {
        let ticket = offer(buffer.handle(), Rights::INSPECT, access).unwrap();
        attach(&two, ticket, Rights::INSPECT, None).unwrap()
    };
    let readable = to_read(Some(Access::Read));
    for access in [2, 3] {
        assert_eq!(map_by(&two, &readable, access), Err(Error::NotPermitted));
    }
    let mapped = map_by(&two, &readable, 1).unwrap();
    assert!(reads(&rig, other(), mapped.iova().get()).is_some());
    assert!(!writes(&rig, other(), mapped.iova().get()));
    two.unmap(&[mapped]).unwrap();
    let idle = to_read(None);
    assert_eq!(map_by(&two, &idle, 1), Err(Error::NotPermitted));
    rig.check();
}

fn r3_what_is_attached_is_not_offered_for_more_than_it_was_offered_itself(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    for (offered, denied) in [
        (None, [Some(Access::Read), Some(Access::Write), Some(ALL)]),
        (Some(Access::Read), [Some(Access::Write), Some(ALL), Some(ALL)]),
    ] {
        // The process sees all of the memory, but no device does more than this.
        let ticket = offer(buffer.handle(), Rights::BUFFER, offered).unwrap();
        let attached = attach(&two, ticket, Rights::BUFFER, None).unwrap();
        for access in denied {
            let refused = offer(&attached, Rights::empty(), access).err();
            assert_eq!(refused, Some(Error::NotPermitted), "{offered:?} {access:?}");
        }
        offer(&attached, Rights::empty(), offered).unwrap();
    }
    rig.check();
}

fn r3_neither_session_maps_or_unmaps_the_others_buffer(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let ticket = offer(buffer.handle(), Rights::BUFFER, Some(ALL)).unwrap();
    let attached = attach(&two, ticket, Rights::BUFFER, Some(ALL)).unwrap();
    assert_ne!(info(&attached).buffer, info(buffer.handle()).buffer);
    assert_eq!(map_by(&one, &attached, 3), Err(Error::WrongOwner));
    assert_eq!(map_by(&two, buffer.handle(), 3), Err(Error::WrongOwner));
    let iova = libdma::Iova::new(info(&attached).iova.get());
    let beyond = one.bus_address(iova).plus(1 << 30).unwrap();
    assert_eq!(one.unmap(&[Mapped::new(beyond, 8192)]), Err(Error::NotMapped));
    two.unmap(&[Mapped::new(two.bus_address(iova), 8192)]).unwrap();
    assert!(!writes(&rig, other(), iova.get()));
    assert!(writes(&rig, edu(), buffer.iova().unwrap().get()), "the first is untouched");
    rig.check();
}

/// All orders in which five things can end.
fn orders() -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for next in 0..5 {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, next);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// A driver is killed at any instruction, and its handles close in any order: so every order of the ends of a device's
/// handle, its buffer's, a copy of that in another process, the device that it was attached to and the attached buffer.
fn r4_whatever_ends_first_the_memory_lives_as_long_as_someone_has_it(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    drop((rig.open(), open_other(&rig)));
    let before = rig.usage();
    let orders = orders();
    assert_eq!(orders.len(), 120);
    for order in orders {
        let (one, two) = (rig.open(), open_other(&rig));
        let owned = map_nothing(&one);
        let copy = weaker(&owned, Rights::BUFFER);
        let ticket = offer(&copy, Rights::BUFFER, Some(ALL)).unwrap();
        let attached = attach(&two, ticket, Rights::BUFFER, Some(ALL)).unwrap();
        let (mine, yours) = (info(&owned).iova.get(), info(&attached).iova.get());
        let mut held: [Option<Handle>; 5] = [
            Some(one.derive(Rights::DEVICE).unwrap()),
            Some(owned),
            Some(copy),
            Some(two.derive(Rights::DEVICE).unwrap()),
            Some(attached),
        ];
        drop((one, two));
        for end in order.iter().copied() {
            held[end] = None;
            // That it may not master the bus any more is not what is to keep a device away.
            for device in [edu(), other()] {
                rig.service.lock().platform_mut().machine_mut().config_write(device, 4, 6);
            }
            let is = |which: usize| held[which].is_some();
            let (owned, attached) = (is(1) || is(2), is(4));
            assert_eq!(writes(&rig, edu(), mine), is(0) && owned, "{order:?} {end}");
            assert_eq!(writes(&rig, other(), yours), is(3) && attached, "{order:?} {end}");
            let live = rig.usage().live_runs - before.live_runs;
            assert_eq!(live, usize::from(owned || attached), "{order:?} {end}");
        }
        assert_eq!(rig.usage(), before, "{order:?}");
    }
    rig.check();
}

/// A buffer as its handle alone, mapped into no process.
fn map_nothing(device: &Device) -> Handle {
    greeted(device.handle().derive(&allocate(8192)).unwrap())
}

fn r2_shared_memory_waits_for_the_slow_unit_of_a_device_that_let_it_go(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let attached = buffer.attach(&two, ALL, "slow").unwrap();
    let yours = attached.io_address().for_device(&two).unwrap().get();
    // The unit caches it.
    assert!(writes(&rig, other(), yours));
    let runs = rig.service.lock().platform().usage().live_runs;
    slow_down(&mut rig.service.lock().platform_mut().machine_mut(), Takes::After(20_000_000));
    drop(attached);
    let fast = buffer.iova().unwrap().get();
    drop(buffer);
    let mut waited = 0;
    while rig.service.lock().platform().usage().live_runs == runs {
        assert!(waited < 1_000_000, "it never comes back");
        rig.service.lock().poll();
        waited += 1;
    }
    assert!(waited > 1, "the unit of the first device confirmed long before");
    assert!(!writes(&rig, edu(), fast) && !writes(&rig, other(), yours));
    rig.check();
}

fn a_device_may_attach_its_own_buffer_and_the_same_one_twice(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let own = buffer.attach(&one, Access::Read, "own").unwrap();
    let first = buffer.attach(&two, Access::Write, "first").unwrap();
    let second = buffer.attach(&two, Access::Read, "second").unwrap();
    let own_at = own.io_address().for_device(&one).unwrap();
    assert_ne!(Some(own_at), buffer.iova());
    let first_at = first.io_address().for_device(&two).unwrap().get();
    let second_at = second.io_address().for_device(&two).unwrap().get();
    assert!(writes(&rig, other(), first_at) && !writes(&rig, other(), second_at));
    assert_eq!(reads(&rig, edu(), own_at.get()), Some([7; 8]));
    drop(first);
    assert!(!writes(&rig, other(), first_at));
    assert_eq!(reads(&rig, other(), second_at), Some([7; 8]));
    drop(buffer);
    assert_eq!(reads(&rig, edu(), own_at.get()), Some([7; 8]), "the memory is the others' still");
    rig.check();
}

fn a_neighbour_in_the_domain_attaches_at_an_address_of_its_own(vendor: Vendor) {
    let [one, two] = ["12:00.0", "13:00.0"].map(|address| address.parse().unwrap());
    let rig = Rig::on(vendor.machine().with_switch(None));
    let open = |address| {
        let device = Device::open(rig.transport(), address).unwrap();
        rig.service.lock().platform_mut().machine_mut().config_write(address, 4, 6);
        device
    };
    let (first, second) = (open(one), open(two));
    assert_eq!(first.domain(), second.domain());
    let buffer = buffer(&first);
    let attached = buffer.attach(&second, ALL, "neighbour").unwrap();
    let (mine, yours) = (
        buffer.io_address().unwrap().for_device(&first).unwrap(),
        attached.io_address().for_device(&second).unwrap(),
    );
    assert_ne!(mine, yours);
    assert!(attached.io_address().for_device(&first).is_err(), "it ends with the neighbour");
    // The first driver goes; what is the neighbour's stays in the domain that they share.
    drop((buffer, first));
    assert!(!writes(&rig, two, mine.get()) && writes(&rig, two, yours.get()));
    drop(attached);
    assert!(!writes(&rig, two, yours.get()));
    drop(second);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn what_is_attached_counts_in_its_own_sessions_quota(vendor: Vendor) {
    for quotas in [
        Quotas { buffers: 1, ..Quotas::default() },
        Quotas { buffer_bytes: 8192, ..Quotas::default() },
        Quotas { mapped_bytes: 8192, ..Quotas::default() },
    ] {
        let rig = Rig::with(vendor.two_units(), Policy { quotas, ..Policy::default() });
        let (one, two) = (rig.open(), open_other(&rig));
        let shared = buffer(&one);
        let attached = shared.attach(&two, ALL, "").unwrap();
        let usage = rig.usage();
        assert_eq!(shared.attach(&two, ALL, "").err(), Some(Error::QuotaExceeded));
        assert_eq!(shared.attach(&one, ALL, "").err(), Some(Error::QuotaExceeded));
        assert_eq!(rig.usage(), usage);
        drop(attached);
        drop(shared.attach(&two, ALL, "").unwrap());
        rig.check();
    }
}

fn a_handle_without_the_right_to_write_is_memory_that_cannot_be_written(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let shared = |rights| SharedBuffer::from_handle(buffer.share(rights).unwrap());
    let reader = shared(Rights::READ | Rights::INSPECT).unwrap();
    buffer.write(8184, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let mut read = [0; 8];
    reader.read(8184, &mut read).unwrap();
    assert_eq!(read, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((reader.len(), reader.id(), reader.is_empty()), (8192, buffer.id(), false));
    assert_eq!(reader.write(0, &[9]), Err(Error::NotPermitted));
    assert_eq!(reader.read(8185, &mut read), Err(Error::OutOfBuffer));
    assert_eq!(reader.share(Rights::WRITE).err(), Some(Error::NotPermitted));
    assert_eq!(reader.attach(&two, Access::Read, "").err(), Some(Error::NotPermitted));
    assert_eq!(shared(Rights::READ).err(), Some(Error::NotPermitted));
    assert_eq!(shared(Rights::INSPECT).err(), Some(Error::NotPermitted));
    let writer = shared(Rights::READ | Rights::WRITE | Rights::INSPECT).unwrap();
    writer.write(0, &[9]).unwrap();
    buffer.read(0, &mut read).unwrap();
    assert_eq!(read[0], 9);
    rig.check();
}

fn what_is_attached_can_be_passed_on_if_it_was_offered_so(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let ticket = offer(buffer.handle(), Rights::BUFFER, Some(Access::Read)).unwrap();
    let attached = attach(&two, ticket, Rights::BUFFER, Some(Access::Read)).unwrap();
    // Back to the first device, of which the memory outlives what was offered first.
    let ticket = offer(&attached, Rights::INSPECT, Some(Access::Read)).unwrap();
    let back = attach(&one, ticket, Rights::INSPECT, Some(Access::Read)).unwrap();
    let at = info(&back).iova.get();
    buffer.write(0, &[5; 8]).unwrap();
    drop(buffer);
    drop((attached, two));
    assert_eq!(reads(&rig, edu(), at), Some([5; 8]));
    drop((back, one));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn reports_say_who_shares(vendor: Vendor) {
    let (rig, one, two) = rig(vendor);
    let buffer = buffer(&one);
    let attached = buffer.attach(&two, Access::Read, "for the card").unwrap();
    let alone = self::buffer(&two);
    let mappings = rig.json("mappings");
    let find = |label| mappings.as_array().unwrap().iter().find(|row| row["label"] == label);
    let (mine, yours) = (find("shared").unwrap(), find("for the card").unwrap());
    assert_eq!(mine["physical"], yours["physical"]);
    assert_eq!(
        (&mine["shared_with"], &yours["shared_with"]),
        (
            &serde_json::json!([{ "buffer": 2, "device": "0000:01:00.0" }]),
            &serde_json::json!([{ "buffer": 1, "device": "0000:00:02.0" }])
        )
    );
    let text = rig.text("mappings");
    assert!(text.contains("\n    the same memory as buffer 2 of 0000:01:00.0\n"), "{text}");
    // The daemon that comes after a crash finds both, and that they are of one run.
    {
        let service = rig.service.lock();
        let records = Ledger::records::<BufferRecord>(service.platform()).unwrap();
        let of_run = |run| records.iter().filter(|(_, record)| record.run == run).count();
        let mut users: Vec<_> = records.iter().map(|(_, record)| of_run(record.run)).collect();
        users.sort_unstable();
        assert_eq!(users, [1, 2, 2]);
    }
    let devices = rig.json("devices");
    let shared: Vec<_> = devices.as_array().unwrap().iter().map(|row| &row["shared"]).collect();
    assert_eq!(shared.iter().filter(|shared| **shared == 1).count(), 2);
    drop((attached, alone));
    assert!(!rig.text("mappings").contains("the same memory"));
    rig.check();
}

fn unprotected() -> Rig {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    Rig::with(MachineConfig::without_units().with_root_port(), policy)
}

#[test]
fn without_an_iommu_memory_is_shared_at_its_one_address_if_the_device_reaches_that() {
    let rig = unprotected();
    let (one, mut two) = (rig.open(), open_other(&rig));
    let buffer = buffer(&one);
    let attached = buffer.attach(&two, Access::Read, "unprotected").unwrap();
    let at = attached.io_address().for_device(&two).unwrap();
    assert_eq!(Some(at), buffer.iova());
    assert!(buffer.io_address().unwrap().for_device(&two).is_err(), "the same number all the same");
    buffer.write(0, &[3; 8]).unwrap();
    assert_eq!(reads(&rig, other(), at.get()), Some([3; 8]));
    // There is one address only.
    assert_eq!(buffer.attach(&two, ALL, "").err(), Some(Error::AlreadyMapped));
    assert_eq!(buffer.attach(&one, ALL, "").err(), Some(Error::AlreadyMapped));
    drop(attached);
    let pieces = one.allocate((4 << 20) + 4096, None, "in pieces").unwrap();
    assert_eq!(pieces.attach(&two, ALL, "").err(), Some(Error::NotContiguous));
    two.set_dma_mask(32).unwrap();
    assert_eq!(buffer.attach(&two, ALL, "").err(), Some(Error::NoAddressSpace));
    drop((buffer, pieces, one, two));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

/// Nothing but the end of its session keeps a device from memory there: what its driver leaves behind stays, also when
/// the memory's first owner gives it back.
#[test]
fn r4_without_an_iommu_shared_memory_waits_for_the_sessions_of_all_its_devices() {
    let rig = unprotected();
    let (one, two) = (rig.open(), open_other(&rig));
    let buffer = buffer(&one);
    let ticket = offer(buffer.handle(), Rights::INSPECT, Some(ALL)).unwrap();
    let attached = attach(&two, ticket, Rights::INSPECT, Some(ALL)).unwrap();
    let at = info(&attached).iova.get();
    // Its driver dies, its buffer's handle first.
    drop(attached);
    drop((buffer, one));
    assert_eq!(rig.usage().live_runs, 1);
    assert!(writes(&rig, other(), at));
    drop(two);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}
