//! A machine without an IOMMU, where the policy lets drivers be served.

use iommu_engine::platform::ConfigSpace;
use iommu_engine::policy::{Invalidation, Policy, WithoutIommu};
use iommu_sim::{Blocked, MachineConfig};
use libdma::protocol::Ticket;
use libdma::protocol::call::{BufferInfo, Hello, Opcode, Welcome, access_code};
use libdma::protocol::derive::{Allocate, Kind};
use libdma::{Access, Device, Error, Handle, Iova};
use libdma::{MapRequest, Mapped};
use zerocopy::little_endian::{U32, U64};

use crate::rig::{Rig, edu};

fn unprotected() -> Policy {
    Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() }
}

pub(crate) fn rig() -> Rig {
    Rig::with(MachineConfig::without_units().with_root_port(), unprotected())
}

fn is_bus_master(rig: &Rig) -> bool {
    rig.service.lock().platform_mut().config_read(edu(), 4) & 1 << 2 != 0
}

#[test]
fn a_driver_gets_memory_at_its_physical_address_and_is_told_that_nothing_confines_it() {
    let rig = rig();
    let device = rig.open();
    assert!(!device.is_confined() && device.write_implies_read());
    let value = device.coherent("value").access(Access::Read).alone().slice::<u64>(1024).unwrap();
    value.write(1023, 7).unwrap();
    let last = value.iova_of(1023).unwrap();
    assert_eq!(rig.device_reads(last.get(), 8).unwrap(), 7u64.to_le_bytes());
    let mapping = &rig.json("mappings")[0];
    assert_eq!(mapping["iova"], mapping["physical"]);
    assert_eq!((&mapping["pieces"], &mapping["access"]), (&1.into(), &"rw".into()));
    // Nothing enforces the direction.
    rig.device_writes(last.get(), &[1; 8]).unwrap();
    assert_eq!(value.read(1023), Ok(0x0101_0101_0101_0101));
    let pages = device.allocate(7 * 4096, Some(Access::Read), "in one piece").unwrap();
    assert_eq!(rig.json("mappings").as_array().map(Vec::len), Some(2));
    drop((value, pages, device));
    assert_eq!((rig.usage().live_runs, rig.json("domains")), (0, serde_json::json!([])));
    rig.check();
}

#[test]
fn what_a_device_cannot_reach_as_it_is_is_a_typed_error_and_leaves_nothing() {
    let rig = rig();
    let mut device = rig.open();
    let before = rig.usage();
    let longer = (4 << 20) + 4096;
    let refused = device.allocate(longer, Some(Access::Read), "longer than any piece");
    assert_eq!(refused.err(), Some(Error::NotContiguous));
    // Not mapped yet it may be in pieces, of which each alone can be mapped.
    let scattered = device.allocate(longer, None, "in pieces").unwrap();
    let map = |offset, bytes| {
        device.map(&[MapRequest { buffer: &scattered, offset, bytes, access: Access::Read }])
    };
    assert_eq!(map(0, longer), Err(Error::NotContiguous));
    let page = map(4096 * 3, 4096).unwrap();
    assert_eq!(map(4096 * 3, 4096), Err(Error::AlreadyMapped), "R7: there it is already");
    let part = Mapped::new(page[0].address(), 2048);
    assert_eq!(device.unmap(&[part]), Err(Error::NotMapped), "R7: not exactly one mapping");
    device.unmap(&page).unwrap();
    assert_eq!(device.unmap(&page), Err(Error::NotMapped));
    drop(scattered);
    // What lies at no multiple of its length is mapped where it lies.
    let whole = device.allocate(1 << 16, None, "in one piece").unwrap();
    let odd = MapRequest { buffer: &whole, offset: 4096, bytes: 8192, access: Access::Read };
    let odd = device.map(&[odd]).unwrap();
    assert_eq!(odd[0].iova().get() % 8192, 4096);
    device.unmap(&odd).unwrap();
    drop(whole);
    // The simulator has memory from 1 GiB on.
    device.set_dma_mask(28).unwrap();
    let refused = device.allocate(4096, Some(Access::Read), "beyond the mask");
    assert_eq!(refused.err(), Some(Error::NoAddressSpace));
    assert_eq!(rig.usage(), before);
    rig.check();
}

/// A stream maps the same page again as soon as it is unmapped. No unit holds anything of it, whatever the policy says
/// of invalidations.
#[test]
fn memory_can_be_mapped_again_as_soon_as_it_is_unmapped() {
    let mut policy = unprotected();
    policy.invalidation = Invalidation::Deferred;
    let rig = Rig::with(MachineConfig::without_units(), policy);
    let device = rig.open();
    let buffer = device.allocate(4096, None, "stream").unwrap();
    let request = [MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read }];
    for _ in 0..3 {
        let mapped = device.map(&request).unwrap();
        device.unmap(&mapped).unwrap();
    }
    drop((buffer, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

#[test]
fn r4_bus_mastering_ends_before_the_memory_of_a_dead_driver_is_anyone_elses() {
    let rig = rig();
    let (dies, other) = (rig.open(), "0000:01:00.0".parse().unwrap());
    let other = Device::open(rig.transport(), other).unwrap();
    let (buffer, address) = mortal(&dies);
    // Its handle may be the first that the system closes.
    drop(buffer);
    assert!(is_bus_master(&rig));
    rig.device_writes(address, &[1; 8]).unwrap();
    let next = other.allocate(4096, Some(Access::ReadWrite), "next").unwrap();
    assert_ne!(next.iova().unwrap().get(), address);
    drop(dies);
    assert!(!is_bus_master(&rig));
    assert_eq!(rig.device_writes(address, &[2; 8]), Err(Blocked::NotMaster));
    assert_eq!(rig.usage().live_runs, 1);
    drop(next);
    rig.check();
}

/// A buffer that ends as its driver's death ends it: with its handle, and nothing said before.
fn mortal(device: &Device) -> (Handle, u64) {
    let request = Allocate {
        kind: U32::new(Kind::Allocate as u32),
        access: U32::new(access_code(Access::ReadWrite)),
        bytes: U64::new(4096),
        align: U64::new(4096),
        limit: U64::new(device.highest_address().get()),
        cache: U32::ZERO,
        reserved: U32::ZERO,
        label: Allocate::label("at work"),
    };
    let handle = device.handle().derive(&request).unwrap();
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new()).unwrap();
    let info: BufferInfo = handle.call(Opcode::BufferInfo, &[0u8; 0]).unwrap();
    (handle, info.iova.get())
}

#[test]
fn each_function_is_alone_and_one_driver_at_a_time_holds_it() {
    let rig = rig();
    let device = rig.open();
    assert_eq!(rig.open_again().err(), Some(Error::DeviceBusy));
    let bridge = Device::open(rig.transport(), "0000:00:03.0".parse().unwrap());
    assert_eq!(bridge.err(), Some(Error::NoSuchDevice));
    let nowhere = Device::open(rig.transport(), "0000:00:09.0".parse().unwrap());
    assert_eq!(nowhere.err(), Some(Error::NoSuchDevice));
    let second = Device::open(rig.transport(), "0000:01:00.0".parse().unwrap()).unwrap();
    assert_ne!(device.domain(), second.domain());
    drop(device);
    assert_eq!(rig.open().generation(), 2);
    rig.check();
}

#[test]
fn every_report_says_that_nothing_is_confined() {
    let rig = rig();
    let device = rig.open();
    let _ring = device.coherent("ring").access(Access::Read).alone().value::<u64>().unwrap();
    assert_eq!(rig.text("units"), "no IOMMU: devices are NOT CONFINED\n");
    assert_eq!(rig.text("devices"), include_str!("golden/devices_without_iommu.txt"));
    assert_eq!(rig.text("groups"), include_str!("golden/groups_without_iommu.txt"));
    assert_eq!(rig.text("domains"), include_str!("golden/domains_without_iommu.txt"));
    let setting = &rig.json("config")[0];
    assert_eq!(
        (&setting["name"], &setting["value"]),
        (&"IOMMU".into(), &"NONE: devices are NOT CONFINED".into())
    );
    for row in rig.json("devices").as_array().unwrap() {
        assert_eq!(
            (&row["state"], &row["unit"]),
            (&"NOT CONFINED".into(), &serde_json::Value::Null)
        );
        assert_eq!(row["why"], "it reaches all memory, for this machine has no IOMMU");
    }
    assert_eq!(rig.json("domains")[0]["format"], "none: NOT CONFINED");
}

#[test]
fn an_address_can_be_chosen_that_the_memory_has_and_no_other() {
    let rig = rig();
    let mut device = rig.open();
    let buffer = device.allocate(4 * 4096, None, "in one piece").unwrap();
    let piece = |page: u64| MapRequest {
        buffer: &buffer,
        offset: page * 4096,
        bytes: 4096,
        access: Access::Read,
    };
    let found = device.map(&[piece(0)]).unwrap();
    let start = found[0].iova();
    let at = |page: u64| Iova::new(start.get() + page * 4096);
    device.unmap(&found).unwrap();
    // As a whole or in pieces, at its own address.
    let mapped = device.map_at(at(1), &[piece(1), piece(2), piece(3)]).unwrap();
    assert_eq!(mapped.iter().map(|it| it.iova()).collect::<Vec<_>>(), [at(1), at(2), at(3)]);
    let there = device.lookup(Iova::new(at(2).get() + 7)).unwrap().unwrap();
    assert_eq!((there.buffer, there.offset), (buffer.id(), 2 * 4096 + 7));
    assert_eq!(device.lookup(start), Ok(None));
    assert_eq!(device.map_at(at(3), &[piece(3)]), Err(Error::AlreadyMapped));
    device.unmap(&mapped[1..]).unwrap();
    let together = device.map_together(&[piece(2), piece(3)]).unwrap();
    assert_eq!(together[0].iova(), at(2));
    device.unmap(&[together[1], mapped[0], together[0]]).unwrap();
    let before = (rig.usage(), rig.text("mappings"));
    for (place, pieces, error) in [
        (at(1), &[piece(0)][..], Error::NoIommu),
        (Iova::new(0x1000), &[piece(0)], Error::NoIommu),
        (at(0), &[piece(0), piece(2)], Error::NotContiguous),
        (at(1), &[piece(1), piece(0)], Error::NotContiguous),
    ] {
        assert_eq!(device.map_at(place, pieces), Err(error), "{place}");
    }
    assert_eq!(device.map_together(&[piece(1), piece(0)]), Err(Error::NotContiguous));
    device.set_dma_mask(13).unwrap();
    assert_eq!(device.map_at(at(0), &[piece(0)]), Err(Error::NoAddressSpace));
    assert_eq!((rig.usage(), rig.text("mappings")), before);
    rig.check();
}

#[test]
fn there_are_no_domains_to_be_made_or_entered() {
    let rig = rig();
    let device = rig.open();
    let before = rig.text("domains");
    assert_eq!(device.new_domain("fixed").create().err(), Some(Error::NoIommu));
    let domain = device.new_domain("fixed").aperture(Iova::new(0x1000), 4096).create();
    assert_eq!(domain.err(), Some(Error::NoIommu));
    assert_eq!(device.enter(&Ticket([0; 16])).err(), Some(Error::BadTicket));
    let leave = device.handle().call_bytes(Opcode::Leave, &mut [1; 8]);
    assert_eq!(leave, Err(Error::NotEntered));
    assert_eq!(rig.text("domains"), before);
    rig.check();
}
