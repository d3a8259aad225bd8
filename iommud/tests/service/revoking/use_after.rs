//! What a revoked handle answers, and what becomes of requests that are pending on it.

use std::time::Duration;

use iommu_engine::policy::Policy;
use iommu_service::{HandleId, Outcome};
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::Rights;
use libdma::protocol::call::{Hello, Opcode};
use libdma::protocol::derive::{Allocate, Kind};
use libdma::protocol::domain::Create;
use libdma::{Access, Error, Handle, Iova, Mapped};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{PAGE, derived, map, number, one_page, revoke};
use crate::rig::Rig;
use crate::tickets::{attach, greeted, offer, open_other, weaker};
use crate::vendor::{Vendor, slow_down};

both! {
    r3_a_revoked_handle_answers_nothing_else_whatever_it_is_of,
    r3_who_was_the_last_to_map_maps_nothing_more_by_a_handle_that_is_revoked_or_closed,
    r4_what_is_pending_on_a_revoked_handle_is_answered_so_and_undone,
    r4_a_handle_that_nobody_got_yet_is_revoked_with_what_it_is_derived_from,
    revoking_twice_is_answered_when_the_first_is,
}

/// Every call and derivation there is, on a handle.
fn asks(handle: &Handle) -> Vec<Result<(), Error>> {
    let mut answers = Vec::new();
    for opcode in 1..=64 {
        let Ok(opcode) = Opcode::try_from(opcode) else { continue };
        let mut payload = [0; 128];
        payload[..8].copy_from_slice(Hello::new().as_bytes());
        answers.push(handle.call_bytes(opcode, &mut payload).map(drop));
    }
    for kind in 1..=64u32 {
        if Kind::try_from(kind).is_ok() {
            let mut request = [0; 128];
            request[..4].copy_from_slice(&kind.to_le_bytes());
            answers.push(handle.derive_bytes(&request).map(drop));
        }
    }
    answers.push(handle.map_buffer(PAGE as usize, false).map(drop));
    answers.push(handle.read(0, &mut [0; 8]).map(drop));
    answers
}

fn r3_who_was_the_last_to_map_maps_nothing_more_by_a_handle_that_is_revoked_or_closed(
    vendor: Vendor,
) {
    let rig = Rig::on(vendor.two_units());
    let device = rig.open();
    let page = device.allocate(PAGE, None, "page").unwrap();
    // Mapped and unmapped, so that the next one is charged as most are.
    let mapper = || {
        let child = derived(&device, Rights::DEVICE);
        let iova = Iova::new(map(child.handle(), page.id()).unwrap());
        child.unmap(&[Mapped::new(child.bus_address(iova), PAGE)]).unwrap();
        child
    };
    let revoked = mapper();
    assert_eq!(revoke(device.handle(), number(revoked.handle())), Ok(1));
    assert_eq!(map(revoked.handle(), page.id()), Err(Error::Revoked));
    let closed = mapper();
    let id = HandleId(number(closed.handle()));
    drop(closed);
    let called = rig.service.lock().call(id, Opcode::Map as u64, &mut one_page(page.id()));
    assert_eq!(called, Err(Error::BadHandle));
    assert!(map(device.handle(), page.id()).is_ok());
}

fn r3_a_revoked_handle_answers_nothing_else_whatever_it_is_of(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let child = derived(&device, Rights::DEVICE);
    let buffer = greeted(child.handle().derive(&crate::hostile::allocate(PAGE)).unwrap());
    let ticket = offer(&buffer, Rights::BUFFER, Some(Access::Read)).unwrap();
    let attached = attach(&other, ticket, Rights::BUFFER, Some(Access::Read)).unwrap();
    let create = Create {
        kind: U32::new(Kind::Domain as u32),
        reserved: U32::ZERO,
        base: U64::ZERO,
        bytes: U64::ZERO,
        label: Allocate::label("domain"),
    };
    let domain = greeted(child.handle().derive(&create).unwrap());
    let registers = child.offer_bar(0, 0, PAGE, Access::Read).unwrap();
    let peer_bar = attach(&other, registers.0, Rights::INSPECT, Some(Access::Read)).unwrap();
    let waiting = derived(&child, Rights::DEVICE);
    let mut register = [0; 72];
    register[..4].copy_from_slice(&(Kind::Register as u32).to_le_bytes());
    register[8..16].copy_from_slice(&PAGE.to_le_bytes());
    register[16..24].copy_from_slice(&PAGE.to_le_bytes());
    let registration = waiting.handle().derive_bytes(&register).unwrap();
    let silent = device.derive(Rights::DEVICE).unwrap();
    assert_eq!(revoke(device.handle(), 0), Ok(8));
    for handle in [
        child.handle(),
        waiting.handle(),
        &buffer,
        &attached,
        &domain,
        &peer_bar,
        &registration,
        &silent,
    ] {
        let answers = asks(handle);
        assert!(answers.iter().all(|it| *it == Err(Error::Revoked)), "{handle:?}: {answers:?}");
        let id = HandleId(handle.raw().number());
        let service = &mut *rig.service.lock();
        assert_eq!(service.length(id), Err(Error::Revoked));
        assert_eq!(service.watch(id, true), Err(Error::Revoked));
        assert_eq!(service.awaited(id), Err(Error::Revoked));
    }
    // Which no closed handle answers, and no live one.
    assert!(asks(device.handle()).iter().all(|it| *it != Err(Error::Revoked)));
    drop((peer_bar, attached, other, registration, waiting, silent, domain, buffer, child, device));
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    rig.check();
}

fn r4_what_is_pending_on_a_revoked_handle_is_answered_so_and_undone(vendor: Vendor) {
    // A unit that caches what is not present is told of each mapping, so that a map pends.
    let rig = Rig::on(vendor.caching());
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "pending").unwrap();
    // The tables that this takes stay.
    drop(device.allocate(PAGE, Some(Access::Read), "").unwrap());
    let before = rig.usage();
    let child = derived(&device, Rights::DEVICE);
    let id = |handle: &Handle| HandleId(handle.raw().number());
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(20_000_000));
    let mut locked = rig.service.lock();
    let service = &mut *locked;
    let mut batch = crate::strict::batch(&[crate::chosen::entry(&buffer, 0, 0)]);
    let mapping = match service.call(id(child.handle()), Opcode::Map as u64, &mut batch).unwrap() {
        Outcome::Pending(request) => request,
        done => panic!("{done:?}"),
    };
    let allocating = match service
        .derive(id(child.handle()), crate::hostile::allocate(PAGE).as_bytes())
        .unwrap()
    {
        Outcome::Pending(request) => request,
        done => panic!("{done:?}"),
    };
    let mut request = [0; 16];
    let revoking = match service.call(id(device.handle()), Opcode::Revoke as u64, &mut request) {
        Ok(Outcome::Pending(request)) => request,
        done => panic!("{done:?}"),
    };
    assert!(service.is_waiting());
    let answered = service.poll();
    let errors: Vec<_> = answered.iter().map(|it| (it.request, it.result.clone().err())).collect();
    assert_eq!(errors[0], (mapping, Some(Error::Revoked)));
    assert_eq!(errors[1], (allocating, Some(Error::Revoked)));
    let mut rest = answered.into_iter().skip(2).collect::<Vec<_>>();
    while rest.is_empty() {
        rest = service.poll();
    }
    assert_eq!(rest.iter().map(|it| it.request).collect::<Vec<_>>(), [revoking]);
    assert!(rest[0].result.is_ok());
    drop(locked);
    drop(child);
    assert_eq!(rig.usage(), before);
    drop((buffer, device));
    rig.check();
}

fn r4_a_handle_that_nobody_got_yet_is_revoked_with_what_it_is_derived_from(vendor: Vendor) {
    let rig = Rig::on(vendor.caching());
    let device = rig.open();
    let buffer = greeted(device.handle().derive(&crate::hostile::allocate(PAGE)).unwrap());
    let passed = weaker(&buffer, Rights::BUFFER);
    let before = rig.usage();
    let ticket = offer(&passed, Rights::BUFFER, Some(Access::Read)).unwrap();
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(20_000_000));
    let request = crate::tickets::attaching(ticket, Rights::BUFFER, Some(Access::Read));
    let service = rig.service.clone();
    let id = HandleId(device.handle().raw().number());
    let pending = service.lock().derive(id, request.as_bytes()).unwrap();
    let Outcome::Pending(pending) = pending else { panic!("{pending:?}") };
    let number = number(&passed);
    let mut revoke = [0; 16];
    revoke[..8].copy_from_slice(&number.to_le_bytes());
    let by = HandleId(buffer.raw().number());
    assert!(service.lock().call(by, Opcode::Revoke as u64, &mut revoke).is_ok());
    let answered = service.lock().poll();
    assert_eq!(answered[0].request, pending);
    assert_eq!(answered[0].result, Err(Error::Revoked));
    drop(passed);
    assert_eq!(rig.usage(), before);
    drop((buffer, device));
    rig.check();
}

fn revoking_twice_is_answered_when_the_first_is(vendor: Vendor) {
    let rig = Rig::with_manual_clock(vendor.machine(), Policy::default());
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, Some(Access::Read), "twice").unwrap();
    let iova = buffer.iova().unwrap().get();
    assert!(super::reads(&rig, iova));
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(20_000_000));
    let by = HandleId(device.handle().raw().number());
    let mut asked = [None, None];
    for asked in &mut asked {
        let outcome = rig.service.lock().call(by, Opcode::Revoke as u64, &mut [0; 16]).unwrap();
        let Outcome::Pending(request) = outcome else { panic!("{outcome:?}") };
        *asked = Some(request);
    }
    assert!(rig.service.lock().poll().is_empty() && super::reads(&rig, iova));
    let mut answered = Vec::new();
    while answered.len() < 2 {
        rig.pass(Duration::from_millis(1));
        answered.extend(rig.service.lock().poll().into_iter().map(|it| Some(it.request)));
        assert!(answered.is_empty() || !super::reads(&rig, iova));
    }
    assert_eq!(answered, asked);
    assert_eq!(revoke(device.handle(), 0), Ok(0));
    drop((buffer, child, device));
    rig.check();
}
