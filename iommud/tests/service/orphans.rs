//! Sessions of before a restart: who may have them again, and until when (R3, R4, R7).

use std::time::Duration;

use iommu_engine::policy::{Orphans, Policy};
use iommu_service::sessions::orphans::MOST_RESUMES;
use iommu_service::{Caller, HandleId, Outcome, Service, Settings};
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::{BatchHeader, BufferInfo, DeviceInfo, MapEntry, Opcode};
use libdma::protocol::derive::{Kind, NO_LIMITS, Restrict};
use libdma::protocol::domain::{Create, DomainInfo};
use libdma::protocol::resume::{Reclaim, Resume, Resumed, Thing};
use libdma::protocol::{Rights, Secret};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::adopting::{death, settle};
use crate::hostile::{allocate, call, device, greet};
use crate::recount::recount;
use crate::rig::{ROOT, Rig, edu};
use crate::vendor::{Vendor, slow_down};

both! {
    r4_what_nobody_claims_by_the_deadline_is_cut_off_and_free,
    r4_what_a_resumed_session_does_not_reclaim_is_given_up,
    r3_who_does_not_know_the_secret_gets_nothing,
    r5_who_may_only_resume_opens_no_more_than_a_driver_can_need,
    r3_what_was_revoked_stays_so_over_a_restart,
    r3_a_reclaimed_handle_has_no_more_rights_than_the_first,
    r3_a_handle_within_bounds_reclaims_nothing,
    r1_until_the_deadline_the_device_is_its_drivers_and_nobody_elses,
    r7_requests_that_a_restart_cuts_short_are_on_no_account_any_more,
    a_generation_is_never_used_again,
    numbers_go_on_where_they_were,
}

const RESUME: &str = "resume/0000--00--02.0";

/// Orphans wait this long.
const WAIT: Duration = Duration::from_millis(40);

fn rig(vendor: Vendor) -> Rig {
    let policy = Policy { orphans: Orphans(WAIT), ..Policy::default() };
    Rig::with(vendor.machine(), policy)
}

/// A rig whose orphans wait for as long as any test takes.
fn patient(vendor: Vendor) -> Rig {
    let policy = Policy { orphans: Orphans(Duration::from_secs(3600)), ..Policy::default() };
    Rig::with(vendor.machine(), policy)
}

fn open(service: &mut Service<SimPlatform>, path: &str, uid: u32) -> Result<HandleId, Error> {
    let root = service.root();
    let opened = service.open(root, path, Caller { uid });
    service.close(root);
    match opened? {
        Outcome::Done(handle) => Ok(handle),
        Outcome::Pending(_) => panic!("nothing here needs hardware"),
    }
}

fn info<T: FromBytes + IntoBytes>(
    service: &mut Service<SimPlatform>,
    handle: HandleId,
    opcode: Opcode,
) -> T {
    let mut info = T::new_zeroed();
    call(service, handle, opcode as u64, info.as_mut_bytes()).unwrap();
    info
}

fn derive(
    service: &mut Service<SimPlatform>,
    from: HandleId,
    request: &[u8],
) -> Result<HandleId, Error> {
    match service.derive(from, request)? {
        Outcome::Done(handle) => Ok(handle),
        Outcome::Pending(_) => panic!("nothing here needs hardware"),
    }
}

fn resume_at(
    service: &mut Service<SimPlatform>,
    handle: HandleId,
    secret: Secret,
) -> Result<u64, Error> {
    let mut payload = Resume { secret };
    call(service, handle, Opcode::Resume as u64, payload.as_mut_bytes())?;
    let resumed = Resumed::read_from_bytes(payload.as_bytes()).unwrap();
    assert_eq!(resumed.reserved.get(), 0);
    Ok(resumed.generation.get())
}

fn resume(service: &mut Service<SimPlatform>, secret: Secret) -> Result<HandleId, Error> {
    let handle = open(service, RESUME, 0)?;
    greet(service, handle);
    match resume_at(service, handle, secret) {
        Ok(_) => Ok(handle),
        Err(error) => {
            service.close(handle);
            Err(error)
        }
    }
}

fn reclaiming(thing: Thing, number: u64, rights: Rights) -> Reclaim {
    Reclaim {
        kind: U32::new(Kind::Reclaim as u32),
        rights: U32::new(rights.bits()),
        thing: U32::new(thing as u32),
        reserved: U32::ZERO,
        number: U64::new(number),
    }
}

/// A device with a buffer that is mapped: its secret, the buffer, and where that is.
fn with_buffer(service: &mut Service<SimPlatform>) -> (Secret, u64, u64) {
    let device = device(service);
    let DeviceInfo { secret, .. } = info(service, device, Opcode::DeviceInfo);
    let buffer = derive(service, device, allocate(4096).as_bytes()).unwrap();
    greet(service, buffer);
    let BufferInfo { buffer, iova, .. } = info(service, buffer, Opcode::BufferInfo);
    (secret, buffer.get(), iova.get())
}

fn make_master(service: &Service<SimPlatform>) {
    service.platform().machine_mut().config_write(edu(), 4, 6);
}

fn is_master(service: &Service<SimPlatform>) -> bool {
    service.platform().machine_mut().config_read(edu(), 4) & 4 != 0
}

fn r4_what_nobody_claims_by_the_deadline_is_cut_off_and_free(vendor: Vendor) {
    let rig = rig(vendor);
    drop(rig.open());
    let before = rig.usage();
    let iova = {
        let service = &mut *rig.service.lock();
        let (_, _, iova) = with_buffer(service);
        make_master(service);
        service.orphan_all();
        iova
    };
    // At every instant until then the device has what it had.
    rig.device_writes(iova, &[1; 8]).unwrap();
    rig.service.lock().poll();
    assert_eq!(rig.service.lock().orphans(), 1);
    rig.device_writes(iova, &[2; 8]).unwrap();
    assert_eq!(rig.open_again().err(), Some(Error::DeviceBusy));
    std::thread::sleep(WAIT);
    rig.service.lock().poll();
    assert!(!is_master(&rig.service.lock()));
    make_master(&rig.service.lock());
    assert!(rig.device_writes(iova, &[3; 8]).is_err());
    assert_eq!(rig.service.lock().orphans(), 0);
    assert_eq!(rig.usage(), before);
    drop(rig.open());
    rig.check();
}

fn r4_what_a_resumed_session_does_not_reclaim_is_given_up(vendor: Vendor) {
    for settles in [true, false] {
        let rig = rig(vendor);
        let mut lock = rig.service.lock();
        let service = &mut *lock;
        let (secret, first, at) = with_buffer(service);
        make_master(service);
        service.orphan_all();
        let device = resume(service, secret).unwrap();
        let request = reclaiming(Thing::Buffer, first, Rights::BUFFER);
        let kept = derive(service, device, request.as_bytes()).unwrap();
        let second = derive(service, device, allocate(8192).as_bytes()).unwrap();
        greet(service, second);
        let BufferInfo { buffer, iova, .. } = info(service, second, Opcode::BufferInfo);
        assert!(buffer.get() > first);
        service.orphan_all();
        let device = resume(service, secret).unwrap();
        let request = reclaiming(Thing::Buffer, buffer.get(), Rights::BUFFER);
        let _kept = derive(service, device, request.as_bytes()).unwrap();
        assert_eq!(service.grant(kept, 0, 4096, true), Err(Error::BadHandle));
        let reach = |service: &Service<SimPlatform>, iova: u64| {
            let mut data = [0; 8];
            service.platform().machine_mut().dma_read(edu(), iova, &mut data).is_ok()
        };
        assert!(reach(service, at) && reach(service, iova.get()));
        if settles {
            call(service, device, Opcode::EndResume as u64, &mut []).unwrap();
        } else {
            std::thread::sleep(WAIT);
        }
        service.poll();
        assert!(!reach(service, at) && reach(service, iova.get()), "settled: {settles}");
        let request = reclaiming(Thing::Buffer, first, Rights::BUFFER);
        assert_eq!(derive(service, device, request.as_bytes()), Err(Error::NotYours));
    }
}

fn r3_what_was_revoked_stays_so_over_a_restart(vendor: Vendor) {
    let rig = patient(vendor);
    let (secret, number) = {
        let service = &mut *rig.service.lock();
        let device = device(service);
        let DeviceInfo { secret, .. } = info(service, device, Opcode::DeviceInfo);
        let buffer = derive(service, device, allocate(4096).as_bytes()).unwrap();
        greet(service, buffer);
        let BufferInfo { buffer: number, .. } = info(service, buffer, Opcode::BufferInfo);
        call(service, device, Opcode::Revoke as u64, &mut [0; 16]).unwrap();
        (secret, number.get())
    };
    let refused = |service: &mut Service<SimPlatform>| {
        let device = resume(service, secret).unwrap();
        let request = reclaiming(Thing::Buffer, number, Rights::empty());
        assert_eq!(derive(service, device, request.as_bytes()), Err(Error::Revoked));
        // Its number is known still.
        let header = BatchHeader { count: U32::new(1), ..BatchHeader::new_zeroed() };
        let mut entry = MapEntry::new_zeroed();
        entry.buffer = U64::new(number);
        (entry.bytes, entry.limit) = (U64::new(4096), U64::new(u64::MAX));
        entry.access = U32::new(3);
        let mut payload = [header.as_bytes(), entry.as_bytes()].concat();
        call(service, device, Opcode::Map as u64, &mut payload).unwrap();
        let (header, _) = BatchHeader::read_from_prefix(&payload).unwrap();
        assert_eq!(Error::from_errno(header.errno.get() as u16), Error::Revoked);
    };
    rig.service.lock().orphan_all();
    refused(&mut rig.service.lock());
    // And once more, by what is in the ledger.
    let policy = rig.service.lock().engine().policy().clone();
    let settings = Settings { policy, ..Settings::default() };
    let Ok(mut service) = Service::adopt(death(&rig), settings) else { panic!("not adopted") };
    settle(&mut service);
    refused(&mut service);
    let device = service.sessions().sessions.len();
    assert_eq!((device, service.sessions().buffers.len()), (1, 1), "until it has settled");
}

fn r3_who_does_not_know_the_secret_gets_nothing(vendor: Vendor) {
    let rig = patient(vendor);
    let mut lock = rig.service.lock();
    let service = &mut *lock;
    assert_eq!(resume(service, Secret::NONE), Err(Error::NotYours), "nobody waits");
    let (secret, buffer, _) = with_buffer(service);
    assert_eq!(resume(service, secret), Err(Error::NotYours), "it has a handle");
    service.orphan_all();

    let handle = open(service, RESUME, 0).unwrap();
    assert_eq!(resume_at(service, handle, secret), Err(Error::NoHandshake));
    greet(service, handle);
    for byte in 0..16 {
        let mut wrong = secret;
        wrong.0[byte] ^= 0x80;
        assert_eq!(resume_at(service, handle, wrong), Err(Error::NotYours));
    }
    assert_eq!(resume_at(service, handle, Secret::NONE), Err(Error::NotYours));
    // Another device's, another user's, and a user who may not open devices.
    let other = open(service, "resume/0000--00--03.0", 0).unwrap();
    greet(service, other);
    assert_eq!(resume_at(service, other, secret), Err(Error::NotYours));
    assert_eq!(open(service, RESUME, 1000), Err(Error::NotPermitted));
    // Such a handle is good for nothing else, and cannot be copied.
    let request = reclaiming(Thing::Buffer, buffer, Rights::BUFFER);
    assert_eq!(derive(service, handle, request.as_bytes()), Err(Error::NotPermitted));
    let copy = [1u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    assert_eq!(derive(service, handle, &copy), Err(Error::WrongHandleKind));
    assert_eq!(
        call(service, handle, Opcode::EndResume as u64, &mut []),
        Err(Error::WrongHandleKind)
    );
    assert_eq!(service.orphans(), 1);

    // The right one, once.
    let generation = resume_at(service, handle, secret).unwrap();
    assert_eq!(resume_at(service, handle, secret), Err(Error::WrongHandleKind));
    assert_eq!(resume(service, secret), Err(Error::NotYours));
    let told: DeviceInfo = info(service, handle, Opcode::DeviceInfo);
    assert_eq!((told.generation.get(), told.secret), (generation, secret));
    for number in [0, buffer + 1, u64::MAX] {
        for thing in [Thing::Buffer, Thing::Domain] {
            let request = reclaiming(thing, number, Rights::empty());
            assert_eq!(derive(service, handle, request.as_bytes()), Err(Error::NotYours));
        }
    }
    let request = reclaiming(Thing::Buffer, buffer, Rights::BUFFER);
    let mut odd = request;
    odd.reserved = U32::new(1);
    assert_eq!(derive(service, handle, odd.as_bytes()), Err(Error::BadValue));
    odd = request;
    odd.thing = U32::new(3);
    assert_eq!(derive(service, handle, odd.as_bytes()), Err(Error::BadValue));
    derive(service, handle, request.as_bytes()).unwrap();
    assert_eq!(derive(service, handle, request.as_bytes()), Err(Error::NotYours), "it has one");
}

fn r5_who_may_only_resume_opens_no_more_than_a_driver_can_need(vendor: Vendor) {
    let rig = patient(vendor);
    let mut lock = rig.service.lock();
    let service = &mut *lock;
    let (secret, ..) = with_buffer(service);
    service.orphan_all();
    let other = open(service, "resume/0000--00--03.0", 0).unwrap();
    let resumes: Vec<_> = (0..MOST_RESUMES).map(|_| open(service, RESUME, 0).unwrap()).collect();
    greet(service, resumes[0]);
    // Whoever keeps these open does not keep the driver from its session: the oldest goes.
    let device = open(service, RESUME, 0).unwrap();
    assert_eq!(resume_at(service, resumes[0], secret), Err(Error::BadHandle));
    resumes[1..].iter().for_each(|resume| greet(service, *resume));
    greet(service, device);
    resume_at(service, device, secret).unwrap();
    // What has become a handle of the device is none of them any more, and nobody else's is.
    let more: Vec<_> = (0..3 * MOST_RESUMES).map(|_| open(service, RESUME, 0).unwrap()).collect();
    assert_eq!(service.handles(), MOST_RESUMES + 2);
    let _: DeviceInfo = info(service, device, Opcode::DeviceInfo);
    greet(service, other);
    for handle in resumes.into_iter().chain(more).chain([other, device]) {
        service.close(handle);
    }
    assert_eq!(service.handles(), 0);
}

fn r3_a_handle_within_bounds_reclaims_nothing(vendor: Vendor) {
    let rig = patient(vendor);
    let service = &mut *rig.service.lock();
    let (secret, number, _) = with_buffer(service);
    service.orphan_all();
    let device = resume(service, secret).unwrap();
    let reclaim = reclaiming(Thing::Buffer, number, Rights::READ);
    let all = Restrict {
        kind: U32::new(Kind::Restrict as u32),
        rights: U32::new(Rights::DEVICE.bits()),
        access: U32::new(3),
        last: U64::new(u64::MAX),
        limits: NO_LIMITS,
        ..Restrict::new_zeroed()
    };
    // However wide they are.
    let part = derive(service, device, all.as_bytes()).unwrap();
    assert_eq!(derive(service, part, reclaim.as_bytes()), Err(Error::NotPermitted));
    derive(service, device, reclaim.as_bytes()).unwrap();
}

fn r3_a_reclaimed_handle_has_no_more_rights_than_the_first(vendor: Vendor) {
    let rig = patient(vendor);
    let mut lock = rig.service.lock();
    let service = &mut *lock;
    let device = device(service);
    let DeviceInfo { secret, .. } = info(service, device, Opcode::DeviceInfo);
    // A handle that may allocate and not write makes buffers that cannot be written.
    let weak = Rights::ALLOCATE | Rights::READ | Rights::INSPECT;
    let copy = [Kind::Copy as u32, weak.bits()].map(u32::to_le_bytes).concat();
    let weak = derive(service, device, &copy).unwrap();
    greet(service, weak);
    let buffer = derive(service, weak, allocate(4096).as_bytes()).unwrap();
    greet(service, buffer);
    let told: BufferInfo = info(service, buffer, Opcode::BufferInfo);
    let mut request = Create::new_zeroed();
    request.kind = U32::new(Kind::Domain as u32);
    let domain = derive(service, device, request.as_bytes()).unwrap();
    greet(service, domain);
    let space: DomainInfo = info(service, domain, Opcode::DomainInfo);
    service.orphan_all();

    let device = resume(service, secret).unwrap();
    let number = told.buffer.get();
    let all = reclaiming(Thing::Buffer, number, Rights::BUFFER);
    assert_eq!(derive(service, device, all.as_bytes()), Err(Error::NotPermitted));
    let less = reclaiming(Thing::Buffer, number, Rights::READ | Rights::INSPECT);
    let buffer = derive(service, device, less.as_bytes()).unwrap();
    let again: BufferInfo = info(service, buffer, Opcode::BufferInfo);
    assert_eq!(again.as_bytes(), told.as_bytes());
    assert_eq!(service.grant(buffer, 0, 4096, true), Err(Error::NotPermitted));
    let more = reclaiming(Thing::Domain, space.domain.get(), Rights::DEVICE);
    assert_eq!(derive(service, device, more.as_bytes()), Err(Error::NotPermitted));
    let right = reclaiming(Thing::Domain, space.domain.get(), Rights::DOMAIN);
    let domain = derive(service, device, right.as_bytes()).unwrap();
    let again: DomainInfo = info(service, domain, Opcode::DomainInfo);
    assert_eq!(again.as_bytes(), space.as_bytes());
}

fn r1_until_the_deadline_the_device_is_its_drivers_and_nobody_elses(vendor: Vendor) {
    let rig = rig(vendor);
    let (secret, _, iova) = with_buffer(&mut rig.service.lock());
    rig.service.lock().orphan_all();
    // It has not been polled since, and is late all the same.
    std::thread::sleep(WAIT);
    assert_eq!(resume(&mut rig.service.lock(), secret), Err(Error::NotYours));
    rig.service.lock().poll();
    let again = rig.open();
    assert!(rig.device_writes(iova, &[1; 8]).is_err());
    drop(again);
    rig.check();
}

fn r7_requests_that_a_restart_cuts_short_are_on_no_account_any_more(vendor: Vendor) {
    let rig = Rig::with(vendor.caching(), Policy::default());
    let service = &mut *rig.service.lock();
    let device = device(service);
    slow_down(&mut service.platform().machine_mut(), Takes::After(20_000_000));
    let asked = service.derive(device, allocate(4096).as_bytes());
    assert!(matches!(asked, Ok(Outcome::Pending(_))), "{asked:?}");
    recount(service);
    service.orphan_all();
    assert_eq!(service.pending().len(), 0);
    recount(service);
}

fn a_generation_is_never_used_again(vendor: Vendor) {
    let rig = patient(vendor);
    let mut generations = Vec::new();
    for _ in 0..5 {
        let device = rig.open();
        generations.push(device.generation());
        for _ in 0..3 {
            rig.restart();
            device.events().unwrap();
            generations.push(device.generation());
        }
    }
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");
    rig.check();
}

fn numbers_go_on_where_they_were(vendor: Vendor) {
    let rig = patient(vendor);
    let device = rig.open();
    let first = device.allocate(4096, None, "first").unwrap();
    let (kept, freed) = (first.id(), device.allocate(4096, None, "freed").unwrap().id());
    rig.restart();
    let second = device.allocate(4096, None, "second").unwrap();
    assert!(kept < freed && freed < second.id());
    let root = rig.service.lock().root();
    assert!(rig.service.lock().open(root, "units", ROOT).is_ok());
    assert_eq!(first.handle().raw().number() >> 40, 1, "it is of the second daemon");
    drop((first, second, device));
    rig.check();
}
