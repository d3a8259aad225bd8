//! Clients that ask for more than hardware can do: they delay themselves, and no other by more than one request.

use std::time::Duration;

use iommu_engine::policy::{Policy, Quotas};
use iommu_service::{Completed, HandleId, Outcome, RequestId, Service};
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::protocol::call::{Opcode, UnmapEntry};
use libdma::{Access, Buffer, Device, Error, MapRequest, Mapped};
use zerocopy::little_endian::U64;

use crate::recount::recount;
use crate::rig::Rig;
use crate::strict::batch;
use crate::tickets::open_other;
use crate::vendor::{Vendor, slow_down, waits};

both! {
    a_client_that_floods_a_unit_delays_no_other_by_more_than_one_request,
    r7_no_more_requests_wait_than_may_and_the_next_is_told_so,
    r7_no_more_unmaps_are_unconfirmed_than_may_be,
}

const PAGE: u64 = 4096;

/// How long a unit takes over each request.
const SLOW: Takes = Takes::After(100_000);

fn mapped(device: &Device, buffer: &Buffer, times: usize) -> Vec<Mapped> {
    // Each in a table with others, and none beside another.
    let one = MapRequest { buffer, offset: 0, bytes: PAGE, access: Access::Read };
    let mut mapped = Vec::new();
    while mapped.len() < times {
        mapped.extend(device.map(&vec![one; (times - mapped.len()).min(64)]).unwrap());
    }
    mapped
}

/// Asks for all of these to be unmapped, in one request.
fn unmap(
    service: &mut Service<SimPlatform>,
    device: &Device,
    mapped: &[Mapped],
) -> Result<Outcome<usize>, Error> {
    let entry = |it: &Mapped| UnmapEntry { iova: U64::new(it.iova().get()), bytes: U64::new(PAGE) };
    let entries: Vec<_> = mapped.iter().map(entry).collect();
    let handle = HandleId(device.handle().raw().number());
    service.call(handle, Opcode::Unmap as u64, &mut batch(&entries))
}

/// Waits until a request is answered, and tells how many others were meanwhile.
fn answered(service: &mut Service<SimPlatform>, request: RequestId) -> usize {
    let mut others = 0;
    for _ in 0..2000 {
        service.platform_mut().advance_time(Duration::from_micros(10));
        let done = service.poll();
        if let Some(found) = done.iter().find(|done| done.request == request) {
            let Completed { result, .. } = found;
            assert!(result.is_ok(), "{result:?}");
            return others + done.len() - 1;
        }
        others += done.len();
    }
    panic!("it is not answered");
}

fn pending(outcome: Result<Outcome<usize>, Error>) -> RequestId {
    match outcome {
        Ok(Outcome::Pending(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn a_client_that_floods_a_unit_delays_no_other_by_more_than_one_request(vendor: Vendor) {
    const FLOOD: usize = 200;
    let rig = Rig::on(vendor.machine().with_root_port());
    let (hostile, other) = (rig.open(), open_other(&rig));
    let [flood, page] = [&hostile, &other].map(|device| device.allocate(PAGE, None, "").unwrap());
    let (all, one) = (mapped(&hostile, &flood, FLOOD), mapped(&other, &page, 2));
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), SLOW);
    let asked = waits(&service.platform().machine());
    let requests: Vec<_> = all.iter().map(|it| pending(unmap(service, &hostile, &[*it]))).collect();
    for one in &one {
        let before = waits(&service.platform().machine());
        let request = pending(unmap(service, &other, &[*one]));
        answered(service, request);
        let told = waits(&service.platform().machine()) - before;
        // And what the other asked next, which the unit may have begun or done before this one looked.
        assert!(told <= 4, "its own, and one of the other's before it: {told}");
        recount(service);
    }
    while service.is_waiting() {
        service.platform_mut().advance_time(Duration::from_micros(10));
        service.poll();
    }
    let told = waits(&service.platform().machine()) - asked;
    assert!(told < FLOOD as u64 / 4, "the flood is asked in batches: {told}");
    assert_eq!((requests.len(), service.pending().len()), (FLOOD, 0));
    recount(service);
}

fn r7_no_more_requests_wait_than_may_and_the_next_is_told_so(vendor: Vendor) {
    let quotas = Quotas { requests: 4, ..Quotas::default() };
    let rig = Rig::with(vendor.machine().with_root_port(), Policy { quotas, ..Policy::default() });
    let (hostile, other) = (rig.open(), open_other(&rig));
    let [flood, page] = [&hostile, &other].map(|device| device.allocate(PAGE, None, "").unwrap());
    let (all, one) = (mapped(&hostile, &flood, 6), mapped(&other, &page, 1));
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), SLOW);
    let requests: Vec<_> =
        all[..4].iter().map(|it| pending(unmap(service, &hostile, &[*it]))).collect();
    for _ in 0..3 {
        assert_eq!(unmap(service, &hostile, &all[4..5]), Err(Error::TooManyRequests));
        recount(service);
    }
    // That is the one client's business.
    pending(unmap(service, &other, &one));
    answered(service, requests[0]);
    pending(unmap(service, &hostile, &all[4..5]));
    recount(service);
}

fn r7_no_more_unmaps_are_unconfirmed_than_may_be(vendor: Vendor) {
    let quotas = Quotas { operations: 8, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "").unwrap();
    let all = mapped(&device, &buffer, 20);
    let service = &mut *rig.service.lock();
    assert_eq!(unmap(service, &device, &all[..9]), Err(Error::TooManyRequests), "at one go");
    slow_down(&mut service.platform().machine_mut(), SLOW);
    let first = pending(unmap(service, &device, &all[..7]));
    assert_eq!(unmap(service, &device, &all[7..9]), Err(Error::TooManyRequests));
    pending(unmap(service, &device, &all[7..8]));
    assert_eq!(unmap(service, &device, &all[8..9]), Err(Error::TooManyRequests));
    recount(service);
    answered(service, first);
    pending(unmap(service, &device, &all[8..14]));
    recount(service);
}
