//! Clients that ask for more than hardware can do: they delay themselves, and no other by more than one request.

use std::time::Duration;

use dma_types::PciAddress;
use iommu_engine::policy::{Devices, Invalidation, Policy, Quotas, Rule, SaidQuotas};
use iommu_engine::unit::Unit;
use iommu_service::{Completed, HandleId, Outcome, RequestId, Service};
use iommu_sim::MachineConfig;
use iommu_sim::machine::EduConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::pci::BridgeKind;
use iommud::platform::sim::SimPlatform;
use libdma::protocol::Ticket;
use libdma::protocol::call::{BatchHeader, MapEntry, Opcode, UnmapEntry, access_code};
use libdma::protocol::domain::{Enter, Leave};
use libdma::protocol::limit::{Level, Limit, Resource};
use libdma::{Access, Buffer, Device, Error, MapRequest, Mapped};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::recount::recount;
use crate::rig::{Rig, edu};
use crate::strict::batch;
use crate::tickets::open_other;
use crate::vendor::{Vendor, slow_down, waits};

both! {
    a_client_that_floods_a_unit_delays_no_other_by_more_than_one_request,
    of_a_crowd_each_client_waits_for_one_request_of_each_other_and_no_more,
    a_device_that_goes_in_and_out_of_domains_delays_no_other_by_more_than_its_last_move,
    maps_that_units_must_be_told_of_delay_no_other_by_more_than_one_request,
    who_is_at_its_limit_does_not_have_others_batches_told,
    r7_no_more_requests_wait_than_may_and_the_next_is_told_so,
    r7_no_more_unmaps_are_unconfirmed_than_may_be,
    r7_a_part_that_floods_leaves_the_rest_to_its_driver,
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
    let rig = Rig::with_manual_clock(vendor.machine().with_root_port(), Policy::default());
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

/// A machine with so many devices behind one unit, each behind a port of its own, and a driver of each.
fn crowd(config: MachineConfig, clients: u8, policy: Policy) -> (Rig, Vec<Device>) {
    let bus = |bus: u8| PciAddress::new(0, bus, 0, 0).unwrap();
    let mut config = config;
    for number in 1..clients {
        config.edus.push(EduConfig::new(bus(number), 0xfeb0_0000 + u32::from(number) * 0x10_0000));
        let port = u16::from(number + 2) << 3;
        config = config.with_bridge(BridgeKind::RootPort, port, (number, number), None);
    }
    let rig = Rig::with_manual_clock(config, policy);
    let mut devices = vec![rig.open()];
    devices.extend((1..clients).map(|number| rig.open_at(bus(number)).unwrap()));
    (rig, devices)
}

/// How many requests stand in the line of the units: what is asked now is done after those.
fn in_line(service: &Service<SimPlatform>) -> usize {
    let units = service.engine().units().iter();
    units.filter_map(|slot| slot.unit.as_ref().ok()).map(Unit::open_tickets).sum()
}

fn finish(service: &mut Service<SimPlatform>) {
    while service.is_waiting() {
        service.platform_mut().advance_time(Duration::from_micros(10));
        service.poll();
    }
    assert!(service.pending().is_empty());
    recount(service);
}

fn of_a_crowd_each_client_waits_for_one_request_of_each_other_and_no_more(vendor: Vendor) {
    const FLOOD: usize = 200;
    for (clients, invalidation) in [3, 4, 5]
        .into_iter()
        .flat_map(|clients| [Invalidation::Strict, Invalidation::Deferred].map(|it| (clients, it)))
    {
        let policy = Policy { invalidation, ..Policy::default() };
        let (rig, devices) = crowd(vendor.machine(), clients, policy);
        let buffers: Vec<_> =
            devices.iter().map(|device| device.allocate(PAGE, None, "").unwrap()).collect();
        let all = mapped(&devices[0], &buffers[0], FLOOD);
        let others = devices.iter().zip(&buffers).skip(1);
        let others: Vec<_> = others.map(|(it, buffer)| (it, mapped(it, buffer, 2))).collect();
        let service = &mut *rig.service.lock();
        slow_down(&mut service.platform().machine_mut(), SLOW);
        let flood: Vec<_> =
            all.iter().map(|it| pending(unmap(service, &devices[0], &[*it]))).collect();
        assert_eq!(in_line(service), 1, "of {FLOOD} that were asked");
        // One after the other, each before anything but the flood is asked.
        for (other, pages) in &others {
            assert!(in_line(service) <= 1);
            let request = pending(unmap(service, other, &pages[..1]));
            answered(service, request);
        }
        // All at once.
        let before = in_line(service);
        assert!(before <= 1);
        let mut waiting = Vec::new();
        for (number, (other, pages)) in others.iter().enumerate() {
            assert_eq!(in_line(service), before + number);
            waiting.push(pending(unmap(service, other, &pages[1..])));
        }
        while !waiting.is_empty() {
            service.platform_mut().advance_time(Duration::from_micros(10));
            service.poll().iter().for_each(|done| waiting.retain(|it| *it != done.request));
            assert!(in_line(service) <= clients.into(), "one of each");
        }
        assert_eq!(flood.len(), FLOOD);
        finish(service);
    }
}

fn a_device_that_goes_in_and_out_of_domains_delays_no_other_by_more_than_its_last_move(
    vendor: Vendor,
) {
    let (rig, devices) = crowd(vendor.machine(), 2, Policy::default());
    let domain = devices[0].new_domain("in and out").create().unwrap();
    let tickets: Vec<_> = (0..8).map(|_| domain.ticket().unwrap()).collect();
    let page = devices[1].allocate(PAGE, None, "").unwrap();
    let (one, number) = (mapped(&devices[1], &page, 1), domain.id());
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), SLOW);
    let hostile = HandleId(devices[0].handle().raw().number());
    let (mut moves, mut of_one) = (Vec::new(), None);
    for Ticket(ticket) in tickets {
        let mut enter = Enter { ticket }.as_bytes().to_vec();
        moves.push(service.call(hostile, Opcode::Enter as u64, &mut enter));
        of_one = of_one.or(Some(in_line(service)));
        let mut leave = Leave { domain: U64::new(number) }.as_bytes().to_vec();
        moves.push(service.call(hostile, Opcode::Leave as u64, &mut leave));
    }
    let (before, of_one) = (in_line(service), of_one.unwrap());
    // In, and out again: what it gives up is never refused.
    assert!(before <= 2 * of_one, "{before} requests of one client stand before another's");
    assert!(matches!(moves[..2], [Ok(Outcome::Pending(_)), Ok(Outcome::Pending(_))]), "{moves:?}");
    for others in moves[2..].chunks(2) {
        assert_eq!(others, [Err(Error::TooManyRequests), Err(Error::NotEntered)]);
    }
    let request = pending(unmap(service, &devices[1], &one));
    answered(service, request);
    finish(service);
}

fn maps_that_units_must_be_told_of_delay_no_other_by_more_than_one_request(vendor: Vendor) {
    let (rig, devices) = crowd(vendor.caching(), 2, Policy::default());
    let [flood, page] = [0, 1].map(|it| devices[it].allocate(PAGE, None, "").unwrap());
    let one = mapped(&devices[1], &page, 1);
    let service = &mut *rig.service.lock();
    slow_down(&mut service.platform().machine_mut(), SLOW);
    let handle = HandleId(devices[0].handle().raw().number());
    let mut waiting = Vec::new();
    for _ in 0..100 {
        // Not strictly, for then it could be mapped once.
        let mut payload = batch(&[map_entry(&flood)]);
        BatchHeader::mut_from_prefix(&mut payload).unwrap().0.flags = U32::ZERO;
        waiting.push(pending(service.call(handle, Opcode::Map as u64, &mut payload)));
    }
    let before = in_line(service);
    assert!(before <= 1, "{before} requests of one client stand before another's");
    let request = pending(unmap(service, &devices[1], &one));
    answered(service, request);
    finish(service);
    assert_eq!(waiting.len(), 100);
}

/// All of a buffer, wherever there is room.
fn map_entry(buffer: &Buffer) -> MapEntry {
    MapEntry {
        buffer: U64::new(buffer.id()),
        bytes: U64::new(PAGE),
        access: U32::new(access_code(Access::Read)),
        limit: U64::new(u64::MAX),
        ..MapEntry::new_zeroed()
    }
}

fn who_is_at_its_limit_does_not_have_others_batches_told(vendor: Vendor) {
    let rule = |quotas| Rule { quotas, ..Rule::new(Devices::At(edu())) };
    let quotas = SaidQuotas { buffers: Some(1), ..SaidQuotas::NOTHING };
    let policy = Policy {
        invalidation: Invalidation::Deferred,
        rules: vec![rule(quotas)],
        ..Policy::default()
    };
    let (rig, devices) = crowd(vendor.machine(), 2, policy);
    let _held = devices[0].allocate(PAGE, None, "all that it may").unwrap();
    let page = devices[1].allocate(PAGE, None, "").unwrap();
    let pages = mapped(&devices[1], &page, 20);
    let before = waits(&rig.service.lock().platform().machine());
    for one in &pages {
        devices[1].unmap(&[*one]).unwrap();
        let refused = devices[0].allocate(PAGE, None, "more");
        assert_eq!(refused.err(), Some(Error::QuotaExceeded));
    }
    let told = waits(&rig.service.lock().platform().machine()) - before;
    assert!(told <= 1, "its unmaps were to be told of together: {told}");
}

fn r7_no_more_requests_wait_than_may_and_the_next_is_told_so(vendor: Vendor) {
    let quotas = Quotas { requests: 4, ..Quotas::default() };
    let rig = Rig::with_manual_clock(
        vendor.machine().with_root_port(),
        Policy { quotas, ..Policy::default() },
    );
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
    let rig = Rig::with_manual_clock(vendor.machine(), Policy { quotas, ..Policy::default() });
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

fn r7_a_part_that_floods_leaves_the_rest_to_its_driver(vendor: Vendor) {
    const MOST: u32 = 16;
    let all = Quotas::default();
    for (quotas, resource) in [
        (Quotas { requests: MOST, ..all }, Resource::Requests),
        (Quotas { operations: MOST, ..all }, Resource::Operations),
    ] {
        let rig = Rig::with_manual_clock(vendor.machine(), Policy { quotas, ..Policy::default() });
        let driver = rig.open();
        let restricted = driver.restricted("codec");
        let restricted = match resource {
            Resource::Requests => restricted.requests(MOST / 2),
            _ => restricted.operations(MOST / 2),
        };
        let part = Device::from_handle(restricted.hand_out().unwrap().0).unwrap();
        let pages = [&part, &driver].map(|device| device.allocate(PAGE, None, "").unwrap());
        let flood = mapped(&part, &pages[0], 40);
        let rest = mapped(&driver, &pages[1], MOST as usize / 2);
        let service = &mut *rig.service.lock();
        slow_down(&mut service.platform().machine_mut(), SLOW);
        let asked = flood.iter().map(|it| unmap(service, &part, &[*it]));
        let (done, refused): (Vec<_>, Vec<_>) = asked.partition(|it| it.is_ok());
        assert_eq!(done.len(), MOST as usize / 2, "{resource:?}");
        assert!(refused.iter().all(|it| *it == Err(Error::TooManyRequests)), "{refused:?}");
        let mut told = Limit::new_zeroed();
        let handle = HandleId(part.handle().raw().number());
        service.call(handle, Opcode::Limit as u64, told.as_mut_bytes()).unwrap();
        assert_eq!(
            (told.resource.get(), told.level.get(), told.limit.get()),
            (resource as u32, Level::Handle as u32, u64::from(MOST / 2))
        );
        for one in &rest {
            pending(unmap(service, &driver, &[*one]));
        }
        recount(service);
    }
}
