//! Handles that are revoked while something else happens.

use std::time::Duration;

use iommu_engine::policy::{Invalidation, Policy, Quotas};
use iommu_service::{Answer, Completed, HandleId, Outcome, RequestId};
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::Rights;
use libdma::protocol::call::{BatchHeader, MapEntry, Opcode, UnmapEntry};
use libdma::{Access, Device, Error, Handle};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{PAGE, derived, number, reads, revoke};
use crate::chosen::entry;
use crate::recount::recount;
use crate::rig::Rig;
use crate::tickets::{attach, greeted, info, offer, open_other, weaker};
use crate::vendor::{Vendor, slow_down};

both! {
    r2_who_revokes_may_die_before_it_is_answered,
    r2_a_unit_that_fails_meanwhile_cuts_off_what_was_revoked,
    r2_what_another_handle_is_just_mapping_is_out_of_reach_too,
    r2_what_another_handle_is_just_unmapping_is_waited_for,
    r3_nothing_is_derived_while_a_revoke_is_not_confirmed,
    r4_revoked_handles_that_nobody_closes_hold_nothing_but_themselves,
    r4_a_revoke_is_not_kept_by_requests_that_fill_the_quota,
    r7_requests_that_a_revoke_answers_are_on_no_account_any_more,
    r7_a_chain_of_sharers_ends_at_the_first,
}

const ALL: Option<Access> = Some(Access::ReadWrite);
const SLOW: Duration = Duration::from_millis(20);

/// A machine whose clock stands, and whose units can be made slow.
fn rig(vendor: Vendor, invalidation: Invalidation) -> Rig {
    let policy = Policy { invalidation, ..Policy::default() };
    Rig::with_manual_clock(vendor.caching(), policy)
}

fn slow(rig: &Rig) {
    let takes = Takes::After(SLOW.as_nanos() as u64);
    slow_down(&mut rig.service.lock().platform().machine_mut(), takes);
}

fn id(handle: &Handle) -> HandleId {
    HandleId(handle.raw().number())
}

/// Makes a call that is to wait.
fn call(rig: &Rig, by: &Handle, opcode: Opcode, payload: &mut [u8]) -> RequestId {
    match rig.service.lock().call(id(by), opcode as u64, payload) {
        Ok(Outcome::Pending(request)) => request,
        other => panic!("{opcode:?}: {other:?}"),
    }
}

/// Revokes all below a handle.
fn revoking(rig: &Rig, by: &Handle) -> RequestId {
    call(rig, by, Opcode::Revoke, &mut [0; 16])
}

/// Lets units go on until this is answered; what else was answered until then.
fn until(rig: &Rig, request: RequestId) -> (Result<Answer, Error>, Vec<Completed>) {
    let mut others = Vec::new();
    for _ in 0..3000 {
        rig.pass(Duration::from_millis(1));
        for completed in rig.service.lock().poll() {
            if completed.request == request {
                return (completed.result, others);
            }
            others.push(completed);
        }
    }
    panic!("it is never answered; {others:?} are");
}

/// Lets units go on until nothing is waited for.
fn settle(rig: &Rig) {
    for _ in 0..1000 {
        if !rig.service.lock().is_waiting() {
            return;
        }
        rig.pass(Duration::from_millis(1));
        rig.service.lock().poll();
    }
    panic!("it waits for ever");
}

fn part(device: &Device) -> (Device, libdma::Buffer, u64) {
    let child = derived(device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "passed on").unwrap();
    let iova = buffer.iova().unwrap().get();
    (child, buffer, iova)
}

fn r2_who_revokes_may_die_before_it_is_answered(vendor: Vendor) {
    for invalidation in [Invalidation::Strict, Invalidation::Deferred] {
        let rig = rig(vendor, invalidation);
        let device = rig.open();
        let keeps = derived(&device, Rights::DEVICE);
        let revoker = derived(&device, Rights::DEVICE);
        let (child, buffer, iova) = part(&revoker);
        assert!(reads(&rig, iova));
        slow(&rig);
        let request = revoking(&rig, revoker.handle());
        drop(revoker);
        let runs = rig.service.lock().platform().usage().live_runs;
        assert!(reads(&rig, iova), "{invalidation:?}: nothing is confirmed yet");
        drop(buffer);
        assert_eq!(rig.service.lock().platform().usage().live_runs, runs, "R2");
        assert!(until(&rig, request).0.is_ok());
        assert!(!reads(&rig, iova));
        drop((child, keeps, device));
        settle(&rig);
        assert_eq!(rig.usage().live_runs, 0);
        rig.check();
    }
}

fn r2_a_unit_that_fails_meanwhile_cuts_off_what_was_revoked(vendor: Vendor) {
    let rig = rig(vendor, Invalidation::Strict);
    let device = rig.open();
    let (child, buffer, iova) = part(&device);
    let own = device.allocate(PAGE, ALL, "own").unwrap();
    assert!(reads(&rig, iova));
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    let request = revoking(&rig, device.handle());
    let (result, _) = until(&rig, request);
    assert_eq!(result, Err(Error::TimedOut));
    let used = buffer.handle().call_bytes(Opcode::BufferInfo, &mut [0; 64]);
    assert_eq!(used, Err(Error::Revoked), "it is revoked all the same");
    drop((buffer, child));
    let kept = rig.service.lock().platform().usage().live_runs;
    assert_eq!(kept, 2, "what the unit may reach for good is nobody's");
    drop((own, device));
    settle(&rig);
    assert_eq!(rig.usage().freed_accesses, 0);
}

fn r2_what_another_handle_is_just_mapping_is_out_of_reach_too(vendor: Vendor) {
    let rig = rig(vendor, Invalidation::Strict);
    let device = rig.open();
    let (child, buffer, first) = part(&device);
    let sibling = derived(&device, Rights::DEVICE);
    slow(&rig);
    // Who only maps what is not its own has nothing of it once it is revoked.
    let header = BatchHeader { count: U32::new(1), ..BatchHeader::new_zeroed() };
    let mut batch = [header.as_bytes(), entry(&buffer, 0, 0).as_bytes()].concat();
    let mapping = call(&rig, sibling.handle(), Opcode::Map, &mut batch);
    let number = number(child.handle());
    let mut request = [number.to_le_bytes(), [0; 8]].concat();
    let revoking = call(&rig, device.handle(), Opcode::Revoke, &mut request);
    let (result, others) = until(&rig, revoking);
    assert!(result.is_ok());
    let mapped = others.into_iter().find(|it| it.request == mapping).map(|it| it.result);
    let Some(Ok(Answer::Payload(payload))) = mapped else { panic!("{mapped:?}") };
    let (_, rest) = BatchHeader::read_from_prefix(&payload).unwrap();
    let iova = MapEntry::read_from_prefix(rest).unwrap().0.iova.get();
    assert!(!reads(&rig, first) && !reads(&rig, iova), "{iova:#x}");
    assert!(!rig.text("mappings").contains("passed on"));
    drop((buffer, child, sibling, device));
    settle(&rig);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_what_another_handle_is_just_unmapping_is_waited_for(vendor: Vendor) {
    for invalidation in [Invalidation::Strict, Invalidation::Deferred] {
        let rig = rig(vendor, invalidation);
        let device = rig.open();
        let (child, buffer, iova) = part(&device);
        assert!(reads(&rig, iova));
        slow(&rig);
        let unmap = UnmapEntry { iova: U64::new(iova), bytes: U64::new(PAGE) };
        let mut batch = crate::strict::batch(&[unmap]);
        let unmapping = call(&rig, device.handle(), Opcode::Unmap, &mut batch);
        let revoking = revoking(&rig, device.handle());
        let (result, others) = until(&rig, revoking);
        assert!(result.is_ok());
        assert!(!reads(&rig, iova));
        assert_eq!(others.iter().map(|it| it.request).collect::<Vec<_>>(), [unmapping]);
        drop((buffer, child, device));
        settle(&rig);
        assert_eq!(rig.usage().live_runs, 0);
        rig.check();
    }
}

fn r3_nothing_is_derived_while_a_revoke_is_not_confirmed(vendor: Vendor) {
    let rig = rig(vendor, Invalidation::Strict);
    let device = rig.open();
    let (child, buffer, iova) = part(&device);
    let before = rig.service.lock().handles();
    slow(&rig);
    let request = revoking(&rig, device.handle());
    for _ in 0..4 {
        assert_eq!(child.derive(Rights::empty()).err(), Some(Error::Revoked));
        assert_eq!(child.allocate(PAGE, ALL, "more").err(), Some(Error::Revoked));
        assert_eq!(buffer.share(Rights::READ).err(), Some(Error::Revoked));
        assert_eq!(child.restricted("more").hand_out().err(), Some(Error::Revoked));
        rig.pass(Duration::from_millis(1));
    }
    assert_eq!(rig.service.lock().handles(), before);
    assert!(until(&rig, request).0.is_ok());
    assert!(!reads(&rig, iova));
    drop((buffer, child, device));
    settle(&rig);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r7_requests_that_a_revoke_answers_are_on_no_account_any_more(vendor: Vendor) {
    let rig = rig(vendor, Invalidation::Strict);
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    slow(&rig);
    let request = crate::hostile::allocate(PAGE);
    let asked = rig.service.lock().derive(id(child.handle()), request.as_bytes());
    assert!(matches!(asked, Ok(Outcome::Pending(_))), "{asked:?}");
    recount(&mut rig.service.lock());
    let revoke = revoking(&rig, device.handle());
    recount(&mut rig.service.lock());
    let (answered, others) = until(&rig, revoke);
    assert!(answered.is_ok());
    assert_eq!(
        others.iter().map(|it| it.result.clone().err()).collect::<Vec<_>>(),
        [Some(Error::Revoked)]
    );
    recount(&mut rig.service.lock());
    drop((child, device));
    settle(&rig);
    rig.check();
}

/// What is left of a revoked handle is its number: no mapping, no ticket, no request; the memory of a buffer stays on the
/// account that it was on, so that there is no more of it than the quota allows.
fn r4_revoked_handles_that_nobody_closes_hold_nothing_but_themselves(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let before = rig.usage();
    let mut left = Vec::new();
    for _ in 0..50 {
        let (handle, taken) =
            device.restricted("flood").buffer_bytes(4 * PAGE).mappings(4).hand_out().unwrap();
        let child = greeted(handle);
        assert_eq!(taken.revoke(), Ok(1));
        left.push(child);
    }
    let now = rig.usage();
    assert_eq!((now.live_runs, now.live_frames), (before.live_runs, before.live_frames));
    let left_over = {
        let service = rig.service.lock();
        (service.pending().len(), service.tickets().len())
    };
    assert_eq!(left_over, (0, 0));
    // Memory that a holder may see counts where it did.
    let (handle, taken) = device.restricted("memory").buffer_bytes(2 * PAGE).hand_out().unwrap();
    let child = Device::from_handle(handle).unwrap();
    let seen = child.allocate(2 * PAGE, ALL, "seen").unwrap();
    let held = |rig: &Rig| {
        let rows = rig.json("quotas");
        rows.as_array()
            .unwrap()
            .iter()
            .filter(|row| row["resource"] == "buffer_bytes")
            .map(|row| row["held"].to_string())
            .collect::<String>()
    };
    let counted = held(&rig);
    assert_eq!(taken.revoke(), Ok(2));
    assert_eq!(held(&rig), counted);
    drop((seen, child, left, taken));
    assert_eq!(rig.usage().live_runs, before.live_runs);
    drop(device);
    assert_eq!(rig.service.lock().accounts().iter().count(), 0);
    rig.check();
}

/// A holder that asks for as much as may wait does not keep the handle's owner from taking it back.
fn r4_a_revoke_is_not_kept_by_requests_that_fill_the_quota(vendor: Vendor) {
    let quotas = Quotas { requests: 8, ..Quotas::UNLIMITED };
    let policy = Policy { quotas, ..Policy::default() };
    let rig = Rig::with_manual_clock(vendor.machine(), policy);
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffers: Vec<_> = (0..16).map(|_| child.allocate(PAGE, ALL, "flood").unwrap()).collect();
    slow(&rig);
    let mut asked = 0;
    let refused = buffers.iter().find_map(|buffer| {
        let iova = U64::new(buffer.iova().unwrap().get());
        let mut batch = crate::strict::batch(&[UnmapEntry { iova, bytes: U64::new(PAGE) }]);
        let mut lock = rig.service.lock();
        let answer = lock.call(id(child.handle()), Opcode::Unmap as u64, &mut batch);
        asked += 1;
        answer.err()
    });
    assert_eq!(refused, Some(Error::TooManyRequests), "{asked} were asked");
    let request = revoking(&rig, device.handle());
    assert!(until(&rig, request).0.is_ok());
    assert!(buffers.iter().all(|buffer| !reads(&rig, buffer.iova().unwrap().get())));
    drop((buffers, child, device));
    settle(&rig);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r7_a_chain_of_sharers_ends_at_the_first(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (one, two) = (rig.open(), open_other(&rig));
    let buffer = one.allocate(PAGE, ALL, "passed on").unwrap();
    let passed = weaker(buffer.handle(), Rights::BUFFER);
    // Attached, offered on by who attached it, and attached again by the first; links of the chain may be closed.
    let mut last = passed;
    let mut chain = Vec::new();
    for link in 0..6 {
        let ticket = offer(&last, Rights::BUFFER, ALL).unwrap();
        let by = if link % 2 == 0 { &two } else { &one };
        let next = attach(by, ticket, Rights::BUFFER, ALL).unwrap();
        chain.push((by.address(), info(&next).iova.get()));
        let before = std::mem::replace(&mut last, next);
        if link % 3 == 1 {
            chain.remove(chain.len() - 2);
            drop(before);
        } else {
            std::mem::forget(before);
        }
    }
    let reach = |(device, iova): &(_, u64)| {
        let service = rig.service.lock();
        let read = service.platform().machine_mut().dma_read(*device, *iova, &mut [0; 8]);
        read.is_ok()
    };
    assert!(chain.iter().all(reach), "{chain:?}");
    assert!(revoke(buffer.handle(), 0).unwrap() >= 4);
    assert!(!chain.iter().any(reach), "{chain:?}");
    let used = last.call_bytes(Opcode::BufferInfo, &mut [0; 64]);
    assert_eq!(used, Err(Error::Revoked));
    assert!(reads(&rig, buffer.iova().unwrap().get()));
}
