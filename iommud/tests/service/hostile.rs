//! Requests that make no sense: a distinct error each, and nothing changed (R5, R7).

use iommu_service::{HandleId, Outcome, Service};
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::{BatchHeader, Hello, MapEntry, Opcode};
use libdma::protocol::derive::{self, Allocate};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::rig::{ROOT, Rig};
use crate::vendor::Vendor;

both! {
    r5_random_bytes_on_random_handles_never_panic_and_never_leak,
    each_mistake_has_an_error_of_its_own,
    nothing_is_done_on_a_device_before_the_handshake,
    sizes_alignments_and_accesses_that_make_no_sense_are_refused,
    a_client_that_asks_for_more_than_its_buffer_is_refused,
    batches_that_lie_about_themselves_are_refused,
}

fn open(service: &mut Service<SimPlatform>, path: &str) -> HandleId {
    let root = service.root();
    let opened = service.open(root, path, ROOT);
    service.close(root);
    match opened {
        Ok(Outcome::Done(handle)) => handle,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn greet(service: &mut Service<SimPlatform>, handle: HandleId) {
    let mut hello = [0; 8];
    hello.copy_from_slice(Hello::new().as_bytes());
    assert_eq!(call(service, handle, Opcode::Hello as u64, &mut hello), Ok(8));
}

pub(crate) fn call(
    service: &mut Service<SimPlatform>,
    handle: HandleId,
    opcode: u64,
    payload: &mut [u8],
) -> Result<usize, Error> {
    match service.call(handle, opcode, payload)? {
        Outcome::Done(length) => Ok(length),
        Outcome::Pending(_) => panic!("nothing here needs hardware"),
    }
}

pub(crate) fn device(service: &mut Service<SimPlatform>) -> HandleId {
    let handle = open(service, "device/0000--00--02.0");
    greet(service, handle);
    handle
}

pub(crate) fn allocate(bytes: u64) -> Allocate {
    Allocate {
        kind: (derive::Kind::Allocate as u32).into(),
        access: 3.into(),
        bytes: bytes.into(),
        align: 4096.into(),
        limit: u64::MAX.into(),
        cache: 0.into(),
        reserved: 0.into(),
        label: [0; 32],
    }
}

fn each_mistake_has_an_error_of_its_own(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let service = &mut *rig.service.lock();
    let root = service.root();
    let device = device(service);
    let text = open(service, "units");
    let mut nothing = [0u8; 0];
    let mut space = [0u8; 64];

    assert_eq!(call(service, HandleId(9999), 1, &mut space), Err(Error::BadHandle));
    for opcode in [0, 0x7f, 0xff, 1 << 32, u64::MAX] {
        assert_eq!(call(service, device, opcode, &mut space), Err(Error::UnknownCall));
    }
    for opcode in [Opcode::Hello, Opcode::DeviceInfo, Opcode::Map, Opcode::Unmap] {
        assert_eq!(call(service, device, opcode as u64, &mut nothing), Err(Error::ShortPayload));
    }
    for handle in [root, text, device] {
        let refused = call(service, handle, Opcode::BufferInfo as u64, &mut space);
        assert_eq!(refused, Err(Error::WrongHandleKind));
        let refused = call(service, handle, Opcode::SimRead as u64, &mut space);
        assert_eq!(refused, Err(Error::WrongHandleKind));
    }
    assert_eq!(service.grant(device, 0, 4096, false), Err(Error::WrongHandleKind));
    assert_eq!(service.read(device, 0, &mut space), Err(Error::WrongHandleKind));
    assert_eq!(service.open(device, "units", ROOT), Err(Error::WrongHandleKind));

    let mut hello = Hello::new();
    hello.version = 99.into();
    let refused = call(service, device, Opcode::Hello as u64, hello.as_mut_bytes());
    assert_eq!(refused, Err(Error::VersionMismatch));
    let mut hello = Hello::new();
    hello.magic = *b"GET ";
    let refused = call(service, device, Opcode::Hello as u64, hello.as_mut_bytes());
    assert_eq!(refused, Err(Error::BadValue));
}

fn nothing_is_done_on_a_device_before_the_handshake(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let service = &mut *rig.service.lock();
    let handle = open(service, "device/0000--00--02.0");
    let mut space = [0u8; 64];
    let refused = call(service, handle, Opcode::DeviceInfo as u64, &mut space);
    assert_eq!(refused, Err(Error::NoHandshake));
    let refused = service.derive(handle, allocate(4096).as_bytes());
    assert_eq!(refused, Err(Error::NoHandshake));
    greet(service, handle);
    assert_eq!(call(service, handle, Opcode::DeviceInfo as u64, &mut space), Ok(56));
}

fn sizes_alignments_and_accesses_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let service = &mut *rig.service.lock();
    let device = device(service);
    let mut refuse = |change: &dyn Fn(&mut Allocate), error| {
        let mut request = allocate(4096);
        change(&mut request);
        assert_eq!(service.derive(device, request.as_bytes()), Err(error));
    };
    refuse(&|it| it.bytes = 0.into(), Error::ZeroSize);
    refuse(&|it| it.bytes = 1.into(), Error::BadAlignment);
    refuse(&|it| it.bytes = (1 << 50).into(), Error::TooLarge);
    refuse(&|it| it.bytes = u64::MAX.into(), Error::TooLarge);
    refuse(&|it| it.align = 0.into(), Error::BadAlignment);
    refuse(&|it| it.align = 100.into(), Error::BadAlignment);
    refuse(&|it| it.align = 4095.into(), Error::BadAlignment);
    refuse(&|it| it.access = 4.into(), Error::BadValue);
    refuse(&|it| it.limit = 100.into(), Error::NoAddressSpace);
    refuse(&|it| it.align = (1 << 63).into(), Error::NoAddressSpace);
    refuse(&|it| it.label = [0xff; 32], Error::BadValue);
    refuse(&|it| it.label[5] = b'x', Error::BadValue);
    refuse(&|it| it.kind = 77.into(), Error::UnknownCall);
    assert_eq!(service.derive(device, &[2, 0, 0]), Err(Error::ShortPayload));
    assert_eq!(service.derive(device, &[2, 0, 0, 0]), Err(Error::ShortPayload));
    let copy = derive::Copy { kind: 1.into(), rights: (1 << 31).into() };
    assert_eq!(service.derive(device, copy.as_bytes()), Err(Error::BadValue));
    assert_eq!(service.platform().usage().live_runs, 0);
}

fn a_client_that_asks_for_more_than_its_buffer_is_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let service = &mut *rig.service.lock();
    let device = device(service);
    let buffer = match service.derive(device, allocate(8192).as_bytes()) {
        Ok(Outcome::Done(handle)) => handle,
        other => panic!("{other:?}"),
    };
    greet(service, buffer);
    assert!(service.grant(buffer, 0, 8192, true).is_ok());
    assert!(service.grant(buffer, 4096, 4096, true).is_ok());
    for (offset, bytes, error) in [
        (0, 8193, Error::OutOfBuffer),
        (4096, 8192, Error::OutOfBuffer),
        (1 << 40, 4096, Error::OutOfBuffer),
        (0, u64::MAX, Error::OutOfBuffer),
        (4096, u64::MAX, Error::Overflow),
        (0, 0, Error::ZeroSize),
        (1, 4096, Error::BadAlignment),
    ] {
        assert_eq!(service.grant(buffer, offset, bytes, true), Err(error), "{offset} {bytes}");
    }
}

fn batches_that_lie_about_themselves_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let service = &mut *rig.service.lock();
    let device = device(service);
    let header = |count: u32| BatchHeader {
        count: count.into(),
        failed: 0.into(),
        errno: 0.into(),
        flags: 0.into(),
    };
    for (count, room, error) in [
        (0, 1, Error::EmptyBatch),
        (2, 1, Error::ShortPayload),
        (129, 129, Error::BatchTooLarge),
        (u32::MAX, 1, Error::BatchTooLarge),
    ] {
        let mut payload = header(count).as_bytes().to_vec();
        payload.resize(payload.len() + room * size_of::<MapEntry>(), 0);
        let refused = call(service, device, Opcode::Map as u64, &mut payload);
        assert_eq!(refused, Err(error), "{count}");
    }
    let mut odd = header(1);
    odd.errno = 5.into();
    let mut payload = odd.as_bytes().to_vec();
    payload.resize(64, 0);
    assert_eq!(call(service, device, Opcode::Map as u64, &mut payload), Err(Error::BadValue));
}

fn r5_random_bytes_on_random_handles_never_panic_and_never_leak(vendor: Vendor) {
    let bytes = proptest::collection::vec(any::<u8>(), 0..100);
    let requests = proptest::collection::vec((0..8u64, 0..7u64, bytes, 0..5u8), 1..60);
    // Whose unit it is matters little here, and the whole device table of an AMD unit takes a while to fill.
    let cases = ProptestConfig::with_cases(if vendor == Vendor::Vtd { 300 } else { 30 });
    proptest!(cases, |(requests in requests)| {
        let rig = Rig::new(vendor);
        let service = &mut *rig.service.lock();
        let before = service.handles();
        let root = service.root();
        let device = device(service);
        let mut open = vec![root, device];
        for (which, opcode, mut bytes, kind) in requests {
            let handle = open[which as usize % open.len()];
            let made = match kind {
                0 => service.call(handle, opcode, &mut bytes).map(|_| None),
                1 => {
                    // Half of the time a request that could make sense.
                    if let Some(first) = bytes.first_mut() { *first = 1 + *first % 2; }
                    if bytes.len() > 4 { bytes[1..4].fill(0); }
                    service.derive(handle, &bytes).map(Some)
                }
                2 => service.open(handle, &String::from_utf8_lossy(&bytes), ROOT).map(Some),
                3 => service.read(handle, opcode, &mut bytes).map(|_| None),
                _ => service.derive(handle, allocate(opcode * 4096).as_bytes()).map(Some),
            };
            if let Ok(Some(Outcome::Done(handle))) = made {
                open.push(handle);
            }
        }
        for handle in open {
            service.close(handle);
        }
        prop_assert_eq!(service.handles(), before);
        prop_assert_eq!(service.platform().usage().live_runs, 0);
    });
}
