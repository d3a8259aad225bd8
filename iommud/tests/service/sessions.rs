//! Opening devices, handles, and their ends (R3, R4).

use iommu_engine::ledger::Ledger;
use iommu_service::in_process::InProcess;
use iommu_service::records::{BufferRecord, SessionRecord};
use iommu_service::{Caller, Outcome};
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::call::{DeviceInfo, Hello, Opcode, Welcome};
use libdma::protocol::{Rights, Secret};
use libdma::{Access, Device, Error, Handle};
use std::sync::Arc;

use crate::rig::{ROOT, Rig, edu, read};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    a_device_has_one_driver_at_a_time,
    only_root_opens_devices_and_sees_physical_addresses,
    what_does_not_exist_is_an_error_of_its_own,
    r4_the_end_of_the_last_handle_is_the_end_of_everything_held,
    r4_a_buffer_that_outlives_its_device_keeps_its_memory_and_no_access,
    r3_a_derived_handle_does_what_its_rights_say_and_no_more,
    r3_a_buffer_without_the_right_to_write_cannot_be_mapped_writable,
    a_session_has_a_secret_that_is_in_the_arena_with_what_it_holds,
    a_request_pends_until_the_hardware_has_confirmed_and_blocks_nobody,
    r5_a_request_to_a_stuck_unit_ends_at_its_deadline_and_the_device_is_free,
    r3_a_weaker_handle_is_not_told_the_secret,
}

fn a_device_has_one_driver_at_a_time(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let first = rig.open();
    assert_eq!(rig.open_again().err(), Some(Error::DeviceBusy));
    assert_eq!((first.address(), first.generation()), (edu(), 1));
    drop(first);
    assert_eq!(rig.open().generation(), 2);
    rig.check();
}

fn only_root_opens_devices_and_sees_physical_addresses(vendor: Vendor) {
    let rig = Rig::new(vendor);
    // SAFETY: nothing is mapped through it.
    let stranger = unsafe { InProcess::new(rig.service.clone(), Caller { uid: 1000 }) };
    let stranger: Arc<dyn libdma::transport::Transport> = Arc::new(stranger);
    assert_eq!(Device::open(stranger.clone(), edu()).err(), Some(Error::NotPermitted));
    assert_eq!(read(&stranger, "mappings"), Err(Error::NotPermitted));
    assert_eq!(read(&stranger, "mappings.json"), Err(Error::NotPermitted));
    for node in ["units", "devices", "domains", "faults", "config"] {
        assert!(read(&stranger, node).is_ok(), "{node}");
    }
}

fn what_does_not_exist_is_an_error_of_its_own(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let transport = rig.transport();
    let nobody = "0000:00:1f.7".parse().unwrap();
    assert_eq!(Device::open(transport.clone(), nobody).err(), Some(Error::NoSuchDevice));
    for path in ["", "nothing", "device", "device/", "device/zero", "units/0"] {
        assert_eq!(read(&transport, path), Err(Error::NoSuchPath), "{path:?}");
    }
}

fn r4_the_end_of_the_last_handle_is_the_end_of_everything_held(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let before = rig.usage();
    let device = rig.open();
    let buffers: Vec<_> =
        (0..20).map(|n| device.coherent("b").alone().bytes(4096 * (n % 4 + 1)).unwrap()).collect();
    let iovas: Vec<_> = buffers.iter().map(|buffer| buffer.iova().get()).collect();
    for iova in &iovas {
        rig.device_writes(*iova, &[1; 8]).unwrap();
    }
    drop(buffers);
    drop(device);
    rig.service.lock().platform_mut().machine_mut().config_write(edu(), 4, 6);
    for iova in iovas {
        assert!(rig.device_writes(iova, &[2; 8]).is_err());
    }
    let after = rig.usage();
    assert_eq!(after.live_frames, before.live_frames + vendor.frames_per_bus());
    assert_eq!(after.live_runs, 0);
    assert_eq!(rig.service.lock().handles(), 1, "the client's own root");
    rig.check();
}

fn r4_a_buffer_that_outlives_its_device_keeps_its_memory_and_no_access(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let transport = rig.transport();
    let device = Handle::open(transport, &libdma::protocol::path::device(edu())).unwrap();
    rig.service.lock().platform_mut().machine_mut().config_write(edu(), 4, 6);
    let _: Welcome = device.call(Opcode::Hello, &Hello::new()).unwrap();
    let request = libdma::protocol::derive::Allocate {
        kind: 2.into(),
        access: 3.into(),
        bytes: 8192.into(),
        align: 4096.into(),
        limit: u64::MAX.into(),
        cache: 0.into(),
        reserved: 0.into(),
        label: libdma::protocol::derive::Allocate::label("orphan"),
    };
    let buffer = device.derive(&request).unwrap();
    drop(device);
    assert_eq!(rig.usage().live_runs, 1);
    rig.service.lock().platform_mut().machine_mut().config_write(edu(), 4, 6);
    assert!(rig.device_writes(0x1_0000_0000, &[1; 8]).is_err());
    drop(buffer);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r3_a_derived_handle_does_what_its_rights_say_and_no_more(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let weaker = device.derive(Rights::INSPECT | Rights::MAP).unwrap();
    let weaker = Device::from_handle(weaker).unwrap();
    assert_eq!(weaker.generation(), device.generation());
    let refused = weaker.coherent("no").access(Access::Read).alone().value::<u64>();
    assert_eq!(refused.err(), Some(Error::NotPermitted));
    assert_eq!(weaker.derive(Rights::DEVICE).err(), Some(Error::NotPermitted));
    assert_eq!(weaker.derive(Rights::ALLOCATE).err(), Some(Error::NotPermitted));
    let blind = weaker.derive(Rights::MAP).unwrap();
    assert_eq!(Device::from_handle(blind).err(), Some(Error::NotPermitted));
    // The device is held as long as any handle to it is.
    drop(device);
    assert_eq!(rig.open_again().err(), Some(Error::DeviceBusy));
    drop(weaker);
    assert!(rig.open_again().is_ok());
    rig.check();
}

fn r3_a_buffer_without_the_right_to_write_cannot_be_mapped_writable(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let weaker = device.derive(Rights::INSPECT | Rights::ALLOCATE | Rights::READ).unwrap();
    let weaker = Device::from_handle(weaker).unwrap();
    // libdma maps what it allocates for writing.
    let refused = weaker.allocate(4096, Some(Access::Read), "read-only");
    assert_eq!(refused.err(), Some(Error::NotPermitted));
    assert_eq!(rig.usage().live_runs, 0, "what could not be used was given back");
}

fn a_session_has_a_secret_that_is_in_the_arena_with_what_it_holds(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.coherent("ring").access(Access::Write).alone().value::<u64>().unwrap();
    {
        let service = rig.service.lock();
        let sessions = Ledger::records::<SessionRecord>(service.platform()).unwrap();
        let [(_, session)] = sessions[..] else { panic!("{sessions:?}") };
        assert_eq!((session.device, session.generation, session.uid), (edu(), 1, 0));
        assert_ne!(session.secret, Secret::NONE);
        let buffers = Ledger::records::<BufferRecord>(service.platform()).unwrap();
        let [(_, record)] = buffers[..] else { panic!("{buffers:?}") };
        assert_eq!((record.session, record.bytes), (session.session, 4096));
        assert_eq!(record.first, Some((buffer.iova(), Access::Write)));
        assert_eq!(&record.label[..5], b"ring\0");
    }
    drop((buffer, device));
    let service = rig.service.lock();
    assert_eq!(Ledger::records::<SessionRecord>(service.platform()).unwrap(), []);
    assert_eq!(Ledger::records::<BufferRecord>(service.platform()).unwrap(), []);
}

fn a_request_pends_until_the_hardware_has_confirmed_and_blocks_nobody(vendor: Vendor) {
    let rig = Rig::on(slow(vendor.caching(), Takes::After(50_000_000)));
    let mut service = rig.service.lock();
    let root = service.root();
    let outcome = service.open(root, "device/0000--00--02.0", ROOT).unwrap();
    let Outcome::Pending(request) = outcome else { panic!("{outcome:?}") };
    // Others are served meanwhile.
    assert!(matches!(service.open(root, "units", ROOT), Ok(Outcome::Done(_))));
    let completed = loop {
        if let Some(completed) = service.poll().pop() {
            break completed;
        }
    };
    assert_eq!(completed.request, request);
    assert!(completed.result.is_ok());
}

fn r5_a_request_to_a_stuck_unit_ends_at_its_deadline_and_the_device_is_free(vendor: Vendor) {
    let rig = Rig::on(vendor.caching());
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    assert_eq!(rig.open_again().err(), Some(Error::TimedOut));
    assert_eq!(rig.service.lock().handles(), 1);
    // The unit is given up, and says so.
    assert_eq!(rig.open_again().err(), Some(Error::UnitFailed));
    let units = rig.json("units");
    assert_eq!(units[0]["state"], "failed");
}

fn r3_a_weaker_handle_is_not_told_the_secret(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let weaker = Device::from_handle(device.derive(Rights::INSPECT).unwrap()).unwrap();
    let info = |device: &Device| -> DeviceInfo {
        device.handle().call(Opcode::DeviceInfo, &[0u8; 0]).unwrap()
    };
    assert_ne!(info(&device).secret, Secret::NONE);
    assert_eq!(info(&weaker).secret, Secret::NONE);
}
