//! Buffers of memory that clients supply: on a platform whose own runs stand in for it (R2, R3, R4, R7).

use iommu_engine::platform::{BufferRuns, RunId};
use iommu_engine::policy::{Policy, Quotas, WithoutIommu};
use iommu_service::{Awaited, HandleId, Outcome, Service};
use iommu_sim::MachineConfig;
use iommud::platform::sim::SimPlatform;
use libdma::protocol::call::{BufferInfo, Opcode};
use libdma::protocol::derive::{Allocate, Kind, MAX_REGISTER_BYTES, Register};
use libdma::protocol::{Rights, derive};
use libdma::{Error, PhysAddr};
use zerocopy::{FromBytes, IntoBytes};

use crate::hostile::{call, device, greet};
use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    registered_memory_is_a_buffer_that_the_device_reaches_until_it_is_closed,
    r4_a_handle_that_waits_for_memory_ends_with_its_session,
    r3_a_handle_that_waits_for_memory_does_nothing_else_and_takes_it_once,
    r3_registered_memory_has_no_rights_that_its_device_handle_has_not,
    r7_memory_that_cannot_be_mapped_is_the_clients_again,
    r7_memory_of_which_nothing_can_be_written_down_is_the_clients_again,
    what_cannot_be_registered_is_refused_before_any_memory_is_sent,
    quotas_count_what_is_registered,
}

const BYTES: u64 = 0x3000;

fn request(bytes: u64) -> Register {
    Register {
        kind: (Kind::Register as u32).into(),
        access: 3.into(),
        bytes: bytes.into(),
        align: 4096.into(),
        limit: u64::MAX.into(),
        address: 0x1_0000.into(),
        label: Allocate::label("mine"),
    }
}

fn derive(
    service: &mut Service<SimPlatform>,
    from: HandleId,
    request: &Register,
) -> Result<HandleId, Error> {
    match service.derive(from, request.as_bytes())? {
        Outcome::Done(handle) => Ok(handle),
        Outcome::Pending(_) => panic!("no hardware is needed"),
    }
}

/// A handle that waits for memory.
fn waiting(service: &mut Service<SimPlatform>, device: HandleId, bytes: u64) -> HandleId {
    let handle = derive(service, device, &request(bytes)).unwrap();
    greet(service, handle);
    handle
}

/// What a client had: other memory than iommud gives it.
fn memory(service: &mut Service<SimPlatform>, bytes: u64) -> RunId {
    service.platform_mut().alloc_run(bytes).unwrap()
}

fn info(service: &mut Service<SimPlatform>, buffer: HandleId) -> Result<BufferInfo, Error> {
    let mut payload = [0; size_of::<BufferInfo>()];
    call(service, buffer, Opcode::BufferInfo as u64, &mut payload)?;
    Ok(BufferInfo::read_from_bytes(&payload).unwrap())
}

fn registered_memory_is_a_buffer_that_the_device_reaches_until_it_is_closed(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let before = rig.usage().live_runs;
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let handle = waiting(&mut service, device, BYTES);
    assert_eq!(service.awaited(handle), Ok(Awaited { address: 0x1_0000, bytes: BYTES }));
    let run = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, run), Ok(Outcome::Done(())));
    let info = info(&mut service, handle).unwrap();
    assert_eq!((info.bytes.get(), info.access.get()), (BYTES, 3));
    assert_eq!(service.grant(handle, 0, BYTES, true).map(|grant| grant.run), Ok(run));
    let edu = crate::rig::edu();
    service.platform_mut().machine_mut().config_write(edu, 4, 6);
    drop(service);
    let iova = info.iova.get();
    rig.device_writes(iova + BYTES - 8, &[7; 8]).unwrap();
    assert_eq!(rig.device_reads(iova + BYTES - 8, 8).unwrap(), [7; 8]);
    rig.service.lock().close(handle);
    assert!(rig.device_writes(iova, &[7; 8]).is_err());
    rig.service.lock().close(device);
    assert_eq!(rig.usage().live_runs, before, "and given back");
    rig.check();
}

fn r4_a_handle_that_waits_for_memory_ends_with_its_session(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let handle = waiting(&mut service, device, BYTES);
    service.close(device);
    assert_eq!(service.awaited(handle), Err(Error::SessionEnded));
    let run = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, run), Err((Error::SessionEnded, true)));
    service.close(handle);
    assert_eq!(service.awaited(handle), Err(Error::BadHandle));
}

fn r3_a_handle_that_waits_for_memory_does_nothing_else_and_takes_it_once(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    assert_eq!(service.awaited(device), Err(Error::WrongHandleKind));
    let handle = derive(&mut service, device, &request(BYTES)).unwrap();
    assert_eq!(service.awaited(handle), Err(Error::NoHandshake));
    greet(&mut service, handle);
    assert_eq!(info(&mut service, handle).err(), Some(Error::WrongHandleKind));
    assert_eq!(service.grant(handle, 0, 4096, false), Err(Error::WrongHandleKind));
    assert_eq!(service.length(handle), Err(Error::WrongHandleKind));
    let copy =
        derive::Copy { kind: (Kind::Copy as u32).into(), rights: Rights::INSPECT.bits().into() };
    let copied = service.derive(handle, copy.as_bytes());
    assert_eq!(copied, Err(Error::WrongHandleKind));
    assert_eq!(derive(&mut service, handle, &request(BYTES)), Err(Error::NotPermitted));
    let run = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, run), Ok(Outcome::Done(())));
    let another = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, another), Err((Error::WrongHandleKind, true)));
}

fn r3_registered_memory_has_no_rights_that_its_device_handle_has_not(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let copy = |service: &mut Service<SimPlatform>, of, rights: Rights| {
        let kind = (Kind::Copy as u32).into();
        let copy = derive::Copy { kind, rights: rights.bits().into() };
        match service.derive(of, copy.as_bytes())? {
            Outcome::Done(handle) => Ok(handle),
            Outcome::Pending(_) => panic!("no hardware is needed"),
        }
    };
    for right in Rights::BUFFER - Rights::INSPECT {
        let part = copy(&mut service, device, Rights::DEVICE - right).unwrap();
        greet(&mut service, part);
        let buffer = waiting(&mut service, part, BYTES);
        let run = memory(&mut service, BYTES);
        assert_eq!(service.supply(buffer, run), Ok(Outcome::Done(())));
        let told = info(&mut service, buffer).unwrap();
        assert_eq!(told.rights.get(), (Rights::BUFFER - right).bits());
        assert_eq!(copy(&mut service, buffer, right), Err(Error::NotPermitted));
        let written = service.grant(buffer, 0, BYTES, true);
        let may = !(Rights::READ | Rights::WRITE).contains(right);
        assert_eq!(written.is_ok(), may, "{right:?}");
    }
}

fn r7_memory_that_cannot_be_mapped_is_the_clients_again(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let low = Register { limit: 0x1fff.into(), ..request(BYTES) };
    let handle = derive(&mut service, device, &low).unwrap();
    greet(&mut service, handle);
    let run = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, run), Err((Error::NoAddressSpace, true)));
    assert!(!service.platform().segments(run).is_empty(), "it was not freed");
    assert!(service.awaited(handle).is_ok(), "other memory may be sent");
}

/// Wherever in the ledger its frame ends, and with it the memory for more.
fn r7_memory_of_which_nothing_can_be_written_down_is_the_clients_again(vendor: Vendor) {
    let quotas = Quotas { buffers: 1000, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let mut service = rig.service.lock();
    let device = device(&mut service);
    for access in [0, 3] {
        let mut refused = 0;
        for index in 0..100 {
            let one = Register { access: access.into(), ..request(0x1000) };
            let handle = derive(&mut service, device, &one).unwrap();
            greet(&mut service, handle);
            let run = memory(&mut service, 0x1000);
            // The first has made the tables for all.
            let is_short = index > 0 && refused == 0;
            let frames = service.platform().usage().live_frames;
            service.platform_mut().limit_frames(if is_short { frames } else { usize::MAX });
            if let Err((error, is_its_own)) = service.supply(handle, run) {
                assert_eq!((error, is_its_own), (Error::OutOfMemory, true));
                assert!(!service.platform().segments(run).is_empty(), "it was not freed");
                assert_eq!(service.supply(handle, run).err(), Some((Error::OutOfMemory, true)));
                refused += 1;
            }
        }
        assert_eq!(refused, 1);
    }
    drop(service);
    rig.check();
}

fn what_cannot_be_registered_is_refused_before_any_memory_is_sent(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let handles = service.handles();
    let mut refuse = |change: &dyn Fn(&mut Register), error| {
        let mut request = request(BYTES);
        change(&mut request);
        assert_eq!(derive(&mut service, device, &request), Err(error));
    };
    refuse(&|it| it.bytes = 0.into(), Error::ZeroSize);
    refuse(&|it| it.bytes = 0x1001.into(), Error::BadAlignment);
    refuse(&|it| it.bytes = (MAX_REGISTER_BYTES + 4096).into(), Error::TooLarge);
    refuse(&|it| it.align = 0x1800.into(), Error::BadAlignment);
    refuse(&|it| it.access = 4.into(), Error::BadValue);
    refuse(&|it| it.address = 0x1_0001.into(), Error::BadAlignment);
    refuse(&|it| it.address = (u64::MAX - 0xfff).into(), Error::Overflow);
    refuse(&|it| it.label = [0xff; 32], Error::BadValue);
    let short = service.derive(device, &request(BYTES).as_bytes()[..71]);
    assert_eq!(short, Err(Error::ShortPayload));
    assert_eq!(service.handles(), handles);
}

fn quotas_count_what_is_registered(vendor: Vendor) {
    let quotas = Quotas { buffer_bytes: BYTES, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let too_much = derive(&mut service, device, &request(BYTES + 4096));
    assert_eq!(too_much, Err(Error::QuotaExceeded));
    let [first, second] = [(); 2].map(|()| waiting(&mut service, device, BYTES));
    let run = memory(&mut service, BYTES);
    assert_eq!(service.supply(first, run), Ok(Outcome::Done(())));
    // Judged when the memory comes, too.
    assert_eq!(service.awaited(second), Err(Error::QuotaExceeded));
    service.close(first);
    assert!(service.awaited(second).is_ok());
}

#[test]
fn r4_without_an_iommu_registered_memory_is_mapped_where_it_is_and_kept_while_its_device_is_open() {
    let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
    let rig = Rig::with(MachineConfig::without_units(), policy);
    let mut service = rig.service.lock();
    let device = device(&mut service);
    let handle = waiting(&mut service, device, BYTES);
    let scattered = memory(&mut service, BYTES);
    assert_eq!(service.supply(handle, scattered), Err((Error::NotContiguous, true)));
    let whole =
        service.platform_mut().alloc_contiguous_run(BYTES, PhysAddr::new(u64::MAX)).unwrap();
    assert_eq!(service.supply(handle, whole), Ok(Outcome::Done(())));
    let start = service.platform().segments(whole)[0].start;
    assert_eq!(info(&mut service, handle).unwrap().iova.get(), start.get());
    service.close(handle);
    assert!(!service.platform().segments(whole).is_empty(), "its device may be at work");
    service.close(device);
    assert!(service.platform().segments(whole).is_empty());
}
