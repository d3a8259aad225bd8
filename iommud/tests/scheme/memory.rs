//! Memory: what a client maps of it, and where it goes.

use iommu_engine::platform::BufferRuns;
use iommu_sim::pace::Completion as Takes;
use iommud::transport::scheme::request::MapRequest;
use iommud::transport::scheme::{Reply, Request};
use libdma::Error;
use libdma::protocol::call::{BufferInfo, Hello, Opcode};
use libdma::protocol::handle::Revoke;
use libdma::protocol::{Rights, derive};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::rig::*;
use crate::vendor::{Vendor, slow};

both! {
    r3_of_a_buffer_no_more_is_mapped_than_it_has_and_its_handle_allows,
    r3_by_a_revoked_handle_nothing_is_mapped,
    r4_a_buffer_that_nobody_ever_mapped_is_given_back_with_its_handle,
    r7_memory_that_a_handle_does_not_get_goes_back_to_where_it_came_from,
}

fn r3_of_a_buffer_no_more_is_mapped_than_it_has_and_its_handle_allows(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    rig.call(buffer, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let info = rig.call(buffer, Opcode::BufferInfo, &[0; size_of::<BufferInfo>()]).unwrap();
    assert_eq!(BufferInfo::read_from_bytes(&info).unwrap().bytes.get(), 0x3000);
    let good =
        MapRequest { offset: 0x1000, bytes: 0x2000, shared: true, write: true, execute: false };
    let map = |rig: &mut Rig, handle, mapping| rig.ask(Request::Map { handle, mapping }, ROOT);
    let mapped = map(&mut rig, buffer, good);
    assert!(matches!(mapped, Ok(Reply::Memory { offset: 0x1000, .. })), "{mapped:?}");
    let refused = [
        (MapRequest { shared: false, ..good }, Error::NotShared),
        (MapRequest { execute: true, ..good }, Error::NotPermitted),
        (MapRequest { bytes: 0x2001, ..good }, Error::OutOfBuffer),
        (MapRequest { offset: 0x3000, bytes: 1, ..good }, Error::OutOfBuffer),
        (MapRequest { offset: u64::MAX - 0xfff, ..good }, Error::Overflow),
        (MapRequest { bytes: 0, ..good }, Error::ZeroSize),
    ];
    for (mapping, error) in refused {
        assert_eq!(map(&mut rig, buffer, mapping), Err(error), "{mapping:?}");
    }
    assert_eq!(map(&mut rig, device, good), Err(Error::WrongHandleKind));
    let weaker = rig.derive(buffer, &copy(Rights::READ)).unwrap();
    assert_eq!(map(&mut rig, weaker, good), Err(Error::NotPermitted));
    assert!(map(&mut rig, weaker, MapRequest { write: false, ..good }).is_ok());
}

/// Not even once more what is mapped: libdma has it mapped so that a child gets it of the kernel.
fn r3_by_a_revoked_handle_nothing_is_mapped(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    rig.call(buffer, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let passed = rig.derive(buffer, &copy(Rights::READ)).unwrap();
    let mapping =
        MapRequest { offset: 0, bytes: 0x1000, shared: true, write: false, execute: false };
    rig.ask(Request::Map { handle: passed, mapping }, ROOT).unwrap();
    rig.call(buffer, Opcode::Revoke, Revoke::default().as_bytes()).unwrap();
    while rig.desk.is_waiting() {
        rig.desk.poll(rig.now);
    }
    assert_eq!(rig.ask(Request::Map { handle: passed, mapping }, ROOT), Err(Error::Revoked));
    // What was mapped is given back all the same.
    assert_eq!(rig.ask(Request::Check(passed), ROOT), Ok(Reply::Done));
}

fn r4_a_buffer_that_nobody_ever_mapped_is_given_back_with_its_handle(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    assert_eq!(rig.desk.service().platform().usage().live_runs, 1);
    rig.desk.close(buffer);
    while rig.desk.is_waiting() {
        rig.desk.poll(rig.now);
    }
    assert_eq!(rig.desk.service().platform().usage().live_runs, 0);
}

fn r7_memory_that_a_handle_does_not_get_goes_back_to_where_it_came_from(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.caching(), Takes::After(2_000_000)));
    let device = rig.device();
    let request = |limit: u64| derive::Register {
        kind: U32::new(derive::Kind::Register as u32),
        access: U32::new(3),
        bytes: U64::new(0x2000),
        align: U64::new(4096),
        limit: U64::new(limit),
        address: U64::new(0x5000),
        label: derive::Allocate::label("mine"),
    };
    let supply = |rig: &mut Rig, handle: usize, memory: Option<()>| {
        rig.last_tag += 1;
        let given_back = std::cell::Cell::new(false);
        let answered = rig.desk.supply(
            Tag(rig.last_tag),
            handle,
            |platform, awaited| {
                assert_eq!((awaited.address, awaited.bytes), (0x5000, 0x2000));
                memory.and_then(|()| platform.alloc_run(0x2000)).ok_or(Error::NotMemory)
            },
            |_, _, awaited| given_back.set(awaited.address == 0x5000),
        );
        (answered, given_back.get())
    };
    // A device's handle wants no memory, and none is looked at.
    let (answered, _) = supply(&mut rig, device, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::WrongHandleKind)))), "{answered:?}");
    let (answered, _) = supply(&mut rig, usize::MAX, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::BadHandle)))), "{answered:?}");

    let low = rig.derive(device, &request(0x1fff)).unwrap();
    rig.call(low, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let (answered, given_back) = supply(&mut rig, low, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::NoAddressSpace)))), "{answered:?}");
    assert!(given_back);

    let handle = rig.derive(device, &request(u64::MAX)).unwrap();
    rig.call(handle, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let (answered, given_back) = supply(&mut rig, handle, None);
    assert!(matches!(answered, Some((_, Err(Error::NotMemory)))), "{answered:?}");
    assert!(!given_back, "nothing was taken");
    let (answered, given_back) = supply(&mut rig, handle, Some(()));
    assert!(!given_back);
    // The answer comes when hardware has it: here, units that cache what is absent.
    let answered = answered.or_else(|| {
        assert!(rig.desk.is_waiting());
        (0..1_000_000).find_map(|_| rig.desk.poll(rig.now).pop())
    });
    assert!(matches!(answered, Some((_, Ok(Reply::Done | Reply::Bytes(_))))), "{answered:?}");
    let mapping =
        MapRequest { offset: 0, bytes: 0x2000, shared: true, write: true, execute: false };
    assert!(rig.ask(Request::Map { handle, mapping }, ROOT).is_ok());
    let (answered, _) = supply(&mut rig, handle, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::WrongHandleKind)))), "{answered:?}");
}
