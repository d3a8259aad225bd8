//! Mapping and unmapping in batches: all or nothing (R7), and done when hardware has forgotten (R2).

use iommu_engine::policy::{Policy, Quotas, Resource};
use iommu_service::account::Holder;
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::MAX_BATCH;
use libdma::protocol::call::{MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry};
use libdma::{Access, Error, Iova};
use libdma::{MapRequest, Mapped};
use zerocopy::little_endian::{U32, U64};

use crate::chosen::{entry, piece, send};
use crate::recount::recount;
use crate::rig::{Rig, edu};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    a_batch_maps_pieces_each_with_its_own_access,
    r7_a_batch_with_a_bad_entry_does_nothing,
    r7_a_refused_batch_leaves_each_account_as_it_was,
    a_full_batch_fits_and_a_fuller_does_not,
    r3_another_sessions_buffer_cannot_be_mapped,
    r2_an_unmap_returns_when_a_slow_unit_has_forgotten,
    r7_a_map_that_hardware_never_confirms_is_taken_back,
}

fn a_batch_maps_pieces_each_with_its_own_access(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(4 * 4096, None, "pieces").unwrap();
    assert_eq!((buffer.iova(), buffer.access()), (None, None));
    buffer.write(4096, b"second page").unwrap();
    let piece = |offset, bytes, access| MapRequest { buffer: &buffer, offset, bytes, access };
    let mapped =
        device.map(&[piece(4096, 4096, Access::Read), piece(0, 4 * 4096, Access::Write)]).unwrap();
    let [second, all] = mapped[..] else { panic!("{mapped:?}") };
    assert_eq!(rig.device_reads(second.iova().get(), 11).unwrap(), b"second page");
    assert!(rig.device_writes(second.iova().get(), &[1]).is_err());
    rig.device_writes(all.iova().get() + 4096, b"SECOND").unwrap();
    assert_eq!(rig.device_reads(second.iova().get(), 11).unwrap(), b"SECOND page");
    device.unmap(&mapped).unwrap();
    assert!(rig.device_reads(second.iova().get(), 1).is_err());
    assert!(rig.device_writes(all.iova().get(), &[1]).is_err());
    rig.check();
}

fn r7_a_batch_with_a_bad_entry_does_nothing(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * 4096, None, "").unwrap();
    let piece = |offset, bytes| MapRequest { buffer: &buffer, offset, bytes, access: Access::Read };
    // The tables that this takes stay.
    device.unmap(&device.map(&[piece(0, 4096)]).unwrap()).unwrap();
    let before = rig.usage();
    let cases = [
        (piece(0, 0), Error::ZeroSize),
        (piece(0, 100), Error::BadAlignment),
        (piece(100, 4096), Error::BadAlignment),
        (piece(4096, 2 * 4096), Error::OutOfBuffer),
        (piece(1 << 63, 4096), Error::OutOfBuffer),
        (piece(u64::MAX - 4095, 4096), Error::Overflow),
        (piece(0, 1 << 40), Error::TooLarge),
    ];
    for (bad, error) in cases {
        let good = piece(0, 4096);
        assert_eq!(device.map(&[good, good, bad]), Err(error));
        assert_eq!(rig.usage(), before);
    }
    let one = device.map(&[piece(0, 8192)]).unwrap()[0];
    let bad = [
        Mapped::new(one.address(), 4096),
        Mapped::new(one.address().plus(4096).unwrap(), 4096),
        Mapped::new(device.bus_address(Iova::new(0)), 8192),
        Mapped::new(one.address(), 0),
    ];
    for bad in bad {
        assert_eq!(device.unmap(&[one, bad]), Err(Error::NotMapped));
        assert!(rig.device_reads(one.iova().get(), 8).is_ok(), "still mapped");
    }
    assert_eq!(device.unmap(&[one, one]), Err(Error::NotMapped));
    device.unmap(&[one]).unwrap();
    assert_eq!(device.unmap(&[one]), Err(Error::NotMapped));
    rig.check();
}

/// Whatever is wrong, wherever: what is charged up front is given back, and no more.
fn r7_a_refused_batch_leaves_each_account_as_it_was(vendor: Vendor) {
    let tight = Quotas { mapped_bytes: 3 * 4096, ..Quotas::default() };
    for quotas in [Quotas::default(), Quotas::UNLIMITED, tight] {
        let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
        let device = rig.open();
        let buffer = device.allocate(2 * 4096, None, "").unwrap();
        let mapped = device.map_at(Iova::new(0x5000_0000), &[piece(&buffer, 0, 4096)]).unwrap();
        let held = || {
            let mut service = rig.service.lock();
            recount(&mut service);
            let accounts = service.accounts();
            [Holder::Device(edu()), Holder::Client(0)].map(|holder| {
                let held = accounts.of(holder).unwrap().held;
                [Resource::MappedBytes, Resource::Mappings, Resource::Requests].map(|it| held[it])
            })
        };
        let before = held();
        assert_eq!(before, [[4096, 1, 0]; 2]);
        let good = entry(&buffer, 0, 0);
        let bads = [
            MapEntry { bytes: U64::new(u64::MAX - 4095), ..good },
            MapEntry { bytes: U64::new(u64::MAX), ..good },
            MapEntry { bytes: U64::new(1 << 40), ..good },
            MapEntry { bytes: U64::ZERO, ..good },
            MapEntry { offset: U64::new(2 * 4096), ..good },
            MapEntry { buffer: U64::new(1 << 50), ..good },
            MapEntry { access: U32::new(9), ..good },
            entry(&buffer, MAP_FLAG_AT, 0x5000_0000),
        ];
        // Each alone, and each in a chain behind the first or the second.
        for (bad, (at, chain)) in
            bads.iter().flat_map(|bad| [(0, 4), (1, 4), (3, 4), (2, 1), (2, 2)].map(|it| (bad, it)))
        {
            let mut entries = [good; 4];
            entries[at] = *bad;
            for entry in entries.iter_mut().skip(chain) {
                entry.flags = U32::new(entry.flags.get() | MAP_FLAG_BEHIND);
            }
            let (_, errno, _) = send(device.handle(), &entries);
            assert_ne!(errno, 0, "{bad:?} at {at}");
            assert_eq!(held(), before, "{bad:?} at {at}");
        }
        device.unmap(&mapped).unwrap();
        assert_eq!(held(), [[0; 3]; 2]);
        drop((buffer, device));
        assert_eq!(rig.service.lock().accounts().iter().count(), 0);
        rig.check();
    }
}

fn a_full_batch_fits_and_a_fuller_does_not(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(4096, None, "").unwrap();
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    let mapped = device.map(&[piece; MAX_BATCH]).unwrap();
    assert_eq!(mapped.len(), MAX_BATCH);
    device.unmap(&mapped).unwrap();
    assert_eq!(device.map(&[piece; MAX_BATCH + 1]), Err(Error::BatchTooLarge));
    assert_eq!(device.map(&[]), Err(Error::EmptyBatch));
    assert_eq!(device.unmap(&[]), Err(Error::EmptyBatch));
    rig.check();
}

fn r3_another_sessions_buffer_cannot_be_mapped(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_root_port());
    let device = rig.open();
    let other = libdma::Device::open(rig.transport(), "01:00.0".parse().unwrap()).unwrap();
    let buffer = other.allocate(4096, None, "not yours").unwrap();
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    assert_eq!(device.map(&[piece]), Err(Error::WrongOwner));
    let mapped = other.map(&[piece]).unwrap();
    assert_eq!(device.unmap(&mapped), Err(Error::WrongOwner));
    let forged = Mapped::new(device.bus_address(mapped[0].iova()), 4096);
    assert_eq!(device.unmap(&[forged]), Err(Error::NotMapped), "iommud knows better");
    rig.check();
}

fn r2_an_unmap_returns_when_a_slow_unit_has_forgotten(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let rig = Rig::on(slow(machine, Takes::After(2_000_000)));
        let device = rig.open();
        let buffer = device.allocate(4096, None, "").unwrap();
        let piece =
            MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        for _ in 0..5 {
            let mapped = device.map(&[piece, piece]).unwrap();
            for one in &mapped {
                rig.device_writes(one.iova().get(), &[1; 8]).unwrap();
            }
            device.unmap(&mapped).unwrap();
            for one in &mapped {
                assert!(rig.device_writes(one.iova().get(), &[2; 8]).is_err());
            }
        }
        rig.check();
    }
}

fn r7_a_map_that_hardware_never_confirms_is_taken_back(vendor: Vendor) {
    let rig = Rig::on(vendor.caching());
    let device = rig.open();
    let buffer = device.allocate(4096, None, "").unwrap();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    assert_eq!(device.map(&[piece]), Err(Error::TimedOut));
    let service = rig.service.lock();
    let mapped: usize = service.engine().domains().map(|(_, it)| it.mappings().count()).sum();
    assert_eq!(mapped, 0);
}
