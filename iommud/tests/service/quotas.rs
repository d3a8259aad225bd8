//! What one driver may hold, by the policy.

use iommu_engine::policy::{Devices, Policy, Quotas, Rule};
use iommu_service::{HandleId, Outcome, Service};
use iommud::platform::sim::SimPlatform;
use libdma::MapRequest;
use libdma::protocol::call::{BufferInfo, Opcode, UNMAPPED};
use libdma::protocol::derive::Allocate;
use libdma::{Access, Error};
use zerocopy::{FromBytes, IntoBytes};

use crate::hostile::{allocate, call, device, greet};
use crate::rig::{Rig, edu};
use crate::vendor::Vendor;

both! {
    r7_what_goes_beyond_a_quota_is_refused_and_what_is_given_back_counts_no_more,
    memory_that_is_mapped_twice_counts_twice,
    a_rule_for_the_device_goes_before_the_quota_for_all,
    what_outlives_a_session_counts_for_the_devices_next,
    tables_that_a_mapping_has_to_itself_count,
}

const PAGE: usize = 4096;

fn policy(quotas: Quotas) -> Policy {
    Policy { quotas, ..Policy::default() }
}

fn r7_what_goes_beyond_a_quota_is_refused_and_what_is_given_back_counts_no_more(vendor: Vendor) {
    let roomy = Quotas::default();
    for (what, quotas, most) in [
        ("buffers", Quotas { buffers: 3, ..roomy }, 3),
        ("bytes in them", Quotas { buffer_bytes: 2 * PAGE as u64, ..roomy }, 2),
        ("bytes mapped", Quotas { mapped_bytes: 4 * PAGE as u64, ..roomy }, 4),
    ] {
        let rig = Rig::with(vendor.machine(), policy(quotas));
        // The unit's table for the bus is made once, and stays.
        drop(rig.open());
        let before = rig.usage();
        let device = rig.open();
        let one = || device.coherent("quota").alone().bytes(PAGE);
        let mut held: Vec<_> = (0..most).map(|_| one().unwrap()).collect();
        let usage = rig.usage();
        assert_eq!(one().err(), Some(Error::QuotaExceeded), "{what}");
        assert_eq!(rig.usage(), usage, "{what}");
        held.pop();
        held.push(one().unwrap());
        assert_eq!(one().err(), Some(Error::QuotaExceeded), "{what}");
        drop((held, device));
        assert_eq!(rig.usage(), before, "{what}");
        rig.check();
    }
}

fn memory_that_is_mapped_twice_counts_twice(vendor: Vendor) {
    let quotas = Quotas { mapped_bytes: 2 * PAGE as u64, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), policy(quotas));
    let device = rig.open();
    let buffer = device.coherent("twice").alone().bytes(PAGE).unwrap();
    let whole = || MapRequest {
        buffer: buffer.buffer().unwrap(),
        offset: 0,
        bytes: PAGE as u64,
        access: Access::Read,
    };
    let mapped = device.map(&[whole()]).unwrap();
    assert_eq!(device.map(&[whole()]).err(), Some(Error::QuotaExceeded));
    device.unmap(&mapped).unwrap();
    // All or nothing: the first of two would have fitted.
    assert_eq!(device.map(&[whole(), whole()]).err(), Some(Error::QuotaExceeded));
    assert!(device.map(&[whole()]).is_ok());
    rig.check();
}

fn a_rule_for_the_device_goes_before_the_quota_for_all(vendor: Vendor) {
    let mut policy = policy(Quotas { buffers: 1, ..Quotas::default() });
    policy.rules.push(Rule { buffers: Some(2), ..Rule::new(Devices::At(edu())) });
    let rig = Rig::with(vendor.machine(), policy);
    let device = rig.open();
    let one = || device.coherent("rule").alone().bytes(PAGE);
    let _held = [one().unwrap(), one().unwrap()];
    assert_eq!(one().err(), Some(Error::QuotaExceeded));
    rig.check();
}

fn what_outlives_a_session_counts_for_the_devices_next(vendor: Vendor) {
    let roomy = Quotas::default();
    for quotas in
        [Quotas { buffers: 2, ..roomy }, Quotas { buffer_bytes: 2 * PAGE as u64, ..roomy }]
    {
        let rig = Rig::with(vendor.machine(), policy(quotas));
        let service = &mut *rig.service.lock();
        let one = |service: &mut _, device| allocated(service, device, &allocate(PAGE as u64));
        // Sessions that each leave a buffer behind.
        let mut left = Vec::new();
        for _ in 0..2 {
            let device = device(service);
            let buffer = one(service, device).unwrap();
            service.close(device);
            let info = buffer_info(service, buffer);
            assert_eq!((info.iova.get(), info.access.get()), (UNMAPPED, 0), "it is mapped no more");
            left.push(buffer);
        }
        let device = device(service);
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
        service.close(left.pop().unwrap());
        let another = one(service, device).unwrap();
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
        service.close(another);
        service.close(left.pop().unwrap());
        for _ in 0..2 {
            one(service, device).unwrap();
        }
        assert_eq!(one(service, device), Err(Error::QuotaExceeded));
    }
}

fn tables_that_a_mapping_has_to_itself_count(vendor: Vendor) {
    let page = PAGE as u64;
    for (align, bytes, counted) in [
        (page, page, page),
        (1 << 20, page, page),
        (2 << 20, page, 2 * page),
        (1 << 30, page, 3 * page),
        (1 << 39, page, 4 * page),
        (2 << 20, 2 << 20, 2 << 20),
        (1 << 30, 2 << 20, (2 << 20) + page),
    ] {
        let most = counted + page;
        let quotas = Quotas { mapped_bytes: most, ..Quotas::default() };
        let rig = Rig::with(vendor.machine(), policy(quotas));
        let service = &mut *rig.service.lock();
        let device = device(service);
        let aligned = Allocate { align: align.into(), ..allocate(bytes) };
        let buffer = allocated(service, device, &aligned).unwrap();
        let what = format!("{bytes:#x} at {align:#x}");
        let rest = allocated(service, device, &allocate(page)).expect(&what);
        assert_eq!(
            allocated(service, device, &allocate(page)),
            Err(Error::QuotaExceeded),
            "{what}"
        );
        // What is given back counts no more, and what is not mapped does not.
        service.close(rest);
        service.close(buffer);
        let unmapped = Allocate { access: 0.into(), ..aligned };
        allocated(service, device, &unmapped).unwrap();
        let all = allocate(most);
        assert!(allocated(service, device, &all).is_ok(), "{what}");
    }
}

fn allocated(
    service: &mut Service<SimPlatform>,
    device: HandleId,
    request: &Allocate,
) -> Result<HandleId, Error> {
    match service.derive(device, request.as_bytes())? {
        Outcome::Done(buffer) => Ok(buffer),
        Outcome::Pending(_) => panic!("nothing here needs hardware"),
    }
}

fn buffer_info(service: &mut Service<SimPlatform>, buffer: HandleId) -> BufferInfo {
    greet(service, buffer);
    let mut payload = [0; size_of::<BufferInfo>()];
    call(service, buffer, Opcode::BufferInfo as u64, &mut payload).unwrap();
    BufferInfo::read_from_bytes(&payload).unwrap()
}
