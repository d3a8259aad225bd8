//! What is mapped strictly is mapped once, so that its unmap leaves the device no way to it (R2).

use iommu_engine::policy::{Invalidation, Policy, WithoutIommu};
use iommu_service::{HandleId, Outcome};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::Rights;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, MAP_FLAG_BEHIND, MapEntry, Opcode, UnmapEntry,
};
use libdma::{Access, Buffer, Device, Error, FromDevice, Iova, Mapped};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::chosen::{entry, piece};
use crate::rig::Rig;
use crate::tickets::{attach, offer, open_other};
use crate::vendor::{Vendor, slow_down};

both! {
    r2_memory_that_is_mapped_otherwise_is_not_mapped_strictly_nor_the_other_way_round,
    r2_a_strict_map_waits_until_what_was_unmapped_before_is_forgotten,
    r2_what_another_device_let_go_is_forgotten_before_a_strict_map_is_answered,
    r2_a_strict_unmap_waits_as_well_where_its_map_was_not_awaited,
    r7_of_a_strict_batch_no_two_are_of_the_same_memory,
}

const PAGE: u64 = 4096;
const ALL: Access = Access::ReadWrite;

/// A way to map a buffer for one of two devices; what is returned ends it.
type Way = fn(&Buffer, &Device, &Device) -> Result<Box<dyn FnOnce()>, Error>;

fn whole(buffer: &Buffer) -> libdma::MapRequest<'_> {
    piece(buffer, 0, buffer.len() as u64)
}

const WAYS: [(&str, Way); 7] = [
    ("map", |buffer, device, _| {
        let (mapped, device) = (device.map(&[whole(buffer)])?, device.clone());
        Ok(Box::new(move || device.unmap(&mapped).unwrap()))
    }),
    ("a part of it", |buffer, device, _| {
        let (mapped, device) = (device.map(&[piece(buffer, PAGE, PAGE)])?, device.clone());
        Ok(Box::new(move || device.unmap(&mapped).unwrap()))
    }),
    ("map_at", |buffer, device, _| {
        let mapped = device.map_at(Iova::new(0x8000_0000), &[whole(buffer)])?;
        let device = device.clone();
        Ok(Box::new(move || device.unmap(&mapped).unwrap()))
    }),
    ("in a domain", |buffer, device, _| {
        let domain = device.new_domain("elsewhere").create()?;
        let mapped = domain.map(&[whole(buffer)])?;
        Ok(Box::new(move || domain.unmap(&mapped).unwrap()))
    }),
    ("in a domain that ends", |buffer, device, _| {
        let domain = device.new_domain("elsewhere").create()?;
        domain.map(&[whole(buffer)])?;
        Ok(Box::new(move || drop(domain)))
    }),
    ("attached to it again", |buffer, device, _| {
        let attached = buffer.attach(device, ALL, "again")?;
        Ok(Box::new(move || drop(attached)))
    }),
    ("attached to another device", |buffer, _, other| {
        let attached = buffer.attach(other, ALL, "other's")?;
        Ok(Box::new(move || drop(attached)))
    }),
];

fn r2_memory_that_is_mapped_otherwise_is_not_mapped_strictly_nor_the_other_way_round(
    vendor: Vendor,
) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let strict = device.stream::<FromDevice>("rx").strict();
    for (name, way) in WAYS {
        let buffer = device.allocate(2 * PAGE, None, "both").unwrap();
        let end = way(&buffer, &device, &other).unwrap();
        let refused = strict.adopt(buffer).map().unwrap_err();
        assert_eq!(refused.error, Error::MappedElsewhere, "{name}");
        end();
        let mapped = refused.into_kept().map().unwrap();
        let iova = mapped.iova().get();
        rig.device_writes(iova, b"in time").unwrap();
        let buffer = mapped.unmap().unwrap();
        assert!(rig.device_writes(iova, b"late").is_err());
        drop(buffer);
    }
    // Its memory is the stream's, so that the other ways must be asked for by its number.
    for (name, way) in WAYS {
        let buffer = device.allocate(2 * PAGE, None, "strict").unwrap();
        let (failed, error, done) = send(&device, &[entry(&buffer, 0, 0)]);
        assert_eq!((failed, error), (0, 0));
        let refused = way(&buffer, &device, &other).err();
        assert_eq!(refused, Some(Error::MappedElsewhere), "{name}");
        // What is not mapped at once is attached all the same; and it is nobody's business who shares what else.
        let ticket = offer(buffer.handle(), Rights::INSPECT, Some(ALL)).unwrap();
        let attached = attach(&other, ticket, Rights::INSPECT, None).unwrap();
        let beside = device.allocate(PAGE, None, "beside").unwrap();
        let ticket = offer(beside.handle(), Rights::INSPECT, Some(ALL)).unwrap();
        let shared = attach(&other, ticket, Rights::INSPECT, None).unwrap();
        let mapped = device.map(&[piece(&beside, 0, PAGE)]).unwrap();
        device.unmap(&mapped).unwrap();
        drop((attached, shared, beside));
        device
            .unmap(&[Mapped::new(device.bus_address(Iova::new(done[0].iova.get())), PAGE)])
            .unwrap();
        way(&buffer, &device, &other).unwrap()();
    }
    drop((strict, device, other));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

/// A request for strict mappings, or for the end of some.
pub(crate) fn batch<Entry: IntoBytes + Immutable>(entries: &[Entry]) -> Vec<u8> {
    let header = BatchHeader {
        count: U32::new(entries.len() as u32),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(BATCH_FLAG_STRICT),
    };
    [header.as_bytes(), entries.as_bytes()].concat()
}

/// Asks for strict mappings: the answer's header and entries.
pub(crate) fn send(device: &Device, entries: &[MapEntry]) -> (u32, u16, Vec<MapEntry>) {
    let mut payload = batch(entries);
    device.handle().call_bytes(Opcode::Map, &mut payload).unwrap();
    let (header, rest) = BatchHeader::read_from_prefix(&payload).unwrap();
    let entries = <[MapEntry]>::ref_from_bytes(rest).unwrap().to_vec();
    (header.failed.get(), header.errno.get() as u16, entries)
}

/// A machine whose policy has unmaps answered before units have forgotten what was mapped.
fn deferred(config: MachineConfig) -> (Rig, Device) {
    let policy = Policy { invalidation: Invalidation::Deferred, ..Policy::default() };
    let rig = Rig::with_manual_clock(config, policy);
    let device = rig.open();
    (rig, device)
}

fn r2_a_strict_map_waits_until_what_was_unmapped_before_is_forgotten(vendor: Vendor) {
    let (rig, device) = deferred(vendor.machine());
    let buffer = device.allocate(PAGE, None, "by hand").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    let before = mapped[0].iova().get();
    rig.device_writes(before, b"mapped").unwrap();
    device.unmap(&mapped).unwrap();
    rig.device_writes(before, b"not yet").unwrap();
    let strict = device.stream::<FromDevice>("rx").strict();
    let mapped = strict.adopt(buffer).map().unwrap();
    assert!(rig.device_writes(before, b"late").is_err());
    rig.device_writes(mapped.iova().get(), b"mapped").unwrap();
    drop(mapped.unmap().unwrap());
    assert!(rig.device_writes(before, b"late").is_err());

    // Units are told at once, whatever they were not told yet.
    let _keeps_tables = device.allocate(PAGE, Some(ALL), "beside").unwrap();
    let buffer = device.allocate(PAGE, None, "by hand").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    device.unmap(&mapped).unwrap();
    let handle = HandleId(device.handle().raw().number());
    let mut request = batch(&[entry(&buffer, 0, 0)]);
    let outcome = rig.service.lock().call(handle, Opcode::Map as u64, &mut request).unwrap();
    assert!(matches!(outcome, Outcome::Done(_)));

    // They may take long.
    let [fresh, first] = [0; 2].map(|_| device.allocate(PAGE, None, "fresh").unwrap());
    let [buffer, behind] = [0; 2].map(|_| device.allocate(PAGE, None, "by hand").unwrap());
    for buffer in [&buffer, &behind] {
        let mapped = device.map(&[piece(buffer, 0, PAGE)]).unwrap();
        device.unmap(&mapped).unwrap();
    }
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), Takes::After(50_000_000));
    let mut map = |entries: &[MapEntry]| {
        let mut request = batch(entries);
        service.call(handle, Opcode::Map as u64, &mut request).unwrap()
    };
    assert!(matches!(map(&[entry(&fresh, 0, 0)]), Outcome::Done(_)));
    assert!(matches!(map(&[entry(&buffer, 0, 0)]), Outcome::Pending(_)));
    let chain = [entry(&first, 0, 0), entry(&behind, MAP_FLAG_BEHIND, 0)];
    assert!(matches!(map(&chain), Outcome::Pending(_)));
}

fn r2_what_another_device_let_go_is_forgotten_before_a_strict_map_is_answered(vendor: Vendor) {
    let (rig, device) = deferred(vendor.two_units());
    let other = open_other(&rig);
    let writes = |at: u64| {
        let address = other.address();
        rig.service.lock().platform().machine_mut().dma_write(address, at, b"mine").is_ok()
    };
    for is_closed in [true, false] {
        let buffer = device.allocate(PAGE, None, "shared").unwrap();
        let attached = buffer.attach(&other, ALL, "other's").unwrap();
        let at = attached.io_address().for_device(&other).unwrap().get();
        assert!(writes(at));
        let kept = match is_closed {
            true => {
                drop(attached);
                None
            }
            false => {
                let mapped = Mapped::new(other.bus_address(Iova::new(at)), PAGE);
                other.unmap(&[mapped]).unwrap();
                Some(attached)
            }
        };
        assert!(writes(at), "it is not forgotten yet");
        let strict = device.stream::<FromDevice>("rx").strict();
        let mapped = strict.adopt(buffer).map().unwrap();
        assert!(!writes(at));
        drop((mapped, kept));
    }
    rig.check();
}

fn r2_a_strict_unmap_waits_as_well_where_its_map_was_not_awaited(vendor: Vendor) {
    let (rig, device) = deferred(vendor.machine());
    let empty = device.new_domain("empty").create().unwrap();
    let buffer = device.allocate(PAGE, None, "by hand").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    rig.device_writes(mapped[0].iova().get(), b"mapped").unwrap();
    device.unmap(&mapped).unwrap();

    let handle = HandleId(empty.handle().raw().number());
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), Takes::After(50_000_000));
    let mut map = batch(&[entry(&buffer, 0, 0)]);
    let mapped = service.call(handle, Opcode::Map as u64, &mut map).unwrap();
    assert!(matches!(mapped, Outcome::Pending(_)));
    // No unit is behind that domain, and all the same the device reaches the memory.
    let (_, told) = BatchHeader::read_from_prefix(&map).unwrap();
    let iova = MapEntry::read_from_bytes(told).unwrap().iova;
    let mut unmap = batch(&[UnmapEntry { iova, bytes: U64::new(PAGE) }]);
    let unmapped = service.call(handle, Opcode::Unmap as u64, &mut unmap).unwrap();
    assert!(matches!(unmapped, Outcome::Pending(_)));
}

fn r7_of_a_strict_batch_no_two_are_of_the_same_memory(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let [one, two] = ["one", "two"].map(|label| device.allocate(PAGE, None, label).unwrap());
    for flags in [0, MAP_FLAG_BEHIND] {
        let twice = [entry(&two, 0, 0), entry(&one, 0, 0), entry(&one, flags, 0)];
        let (failed, error, done) = send(&device, &twice);
        assert_eq!((failed, Error::from_errno(error)), (2, Error::MappedElsewhere));
        assert!(done.iter().all(|entry| entry.iova.get() == 0));
    }
    let (_, error, done) = send(&device, &[entry(&one, 0, 0), entry(&two, MAP_FLAG_BEHIND, 0)]);
    assert_eq!((error, done[1].iova.get()), (0, done[0].iova.get() + PAGE));
    drop((one, two, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

/// Nothing keeps the device from the memory there; but who maps strictly is the only one who maps all the same.
#[test]
fn without_an_iommu_strict_mappings_exclude_others() {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    let rig = Rig::with(MachineConfig::without_units().with_root_port(), policy);
    let (device, other) = (rig.open(), open_other(&rig));
    let strict = device.stream::<FromDevice>("rx").strict();
    let buffer = device.allocate(PAGE, None, "both").unwrap();
    let attached = buffer.attach(&other, ALL, "other's").unwrap();
    let refused = strict.adopt(buffer).map().unwrap_err();
    assert_eq!(refused.error, Error::MappedElsewhere);
    drop(attached);
    drop(refused.into_kept().map().unwrap());
    let buffer = device.allocate(PAGE, Some(ALL), "mapped").unwrap();
    assert_eq!(strict.adopt(buffer).map().unwrap_err().error, Error::MappedElsewhere);
    drop((strict, device, other));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}
