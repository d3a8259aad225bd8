//! What devices reach after a handle was revoked.

use std::time::Duration;

use dma_types::Iova;
use iommu_engine::policy::{Devices, Invalidation, Policy, Rule, Unopened};
use iommu_service::{HandleId, Outcome};
use iommu_sim::pace::Completion as Takes;
use libdma::protocol::call::Opcode;
use libdma::protocol::handle::Revoke;
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Error};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::{PAGE, copy, derived, map, number, reads, revoke};
use crate::chosen::piece;
use crate::peer_bars::rings;
use crate::rig::{Rig, edu};
use crate::tickets::{attach, greeted, info, offer, open_other, weaker};
use crate::vendor::{Vendor, slow_down};

both! {
    r2_what_came_of_a_revoked_device_handle_is_out_of_reach,
    r2_a_stale_translation_is_gone_before_a_revoke_is_answered,
    r2_the_revoke_of_a_buffer_alone_waits_for_the_unit,
    r2_what_was_unmapped_before_is_out_of_reach_too,
    r2_an_attachment_of_an_offered_buffer_ends_with_the_offer,
    r2_an_attachment_that_was_closed_is_out_of_reach_when_its_offer_is_revoked,
    r2_devices_are_out_of_the_domain_of_a_revoked_handle,
    r2_a_peers_bar_ends_with_the_offer,
    r2_the_memory_of_a_revoked_buffer_is_kept_until_its_holder_has_closed_it,
    r2_memory_is_kept_for_good_where_a_unit_does_not_confirm,
    r4_a_buffer_whose_last_live_handle_closes_is_out_of_reach,
    r3_what_a_closed_handle_has_mapped_is_its_parents,
    r2_what_is_revoked_is_out_of_reach_of_a_device_that_is_unconfined_otherwise,
}

const ALL: Option<Access> = Some(Access::ReadWrite);

fn with(vendor: Vendor, invalidation: Invalidation) -> Rig {
    Rig::with(vendor.machine(), Policy { invalidation, ..Policy::default() })
}

fn r2_what_came_of_a_revoked_device_handle_is_out_of_reach(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let own = device.allocate(PAGE, ALL, "own").unwrap();
    let shared = device.allocate(2 * PAGE, ALL, "mapped by both").unwrap();
    let before = rig.usage();
    let child = derived(&device, Rights::DEVICE);
    let theirs = child.allocate(PAGE, ALL, "theirs").unwrap();
    let mapped = child.map(&[piece(&shared, 0, PAGE)]).unwrap()[0].iova().get();
    let grandchild = derived(&child, Rights::DEVICE);
    let below = grandchild.allocate(PAGE, ALL, "below").unwrap();
    let iova = |buffer: &libdma::Buffer| buffer.iova().unwrap().get();
    let gone = [iova(&theirs), mapped, iova(&below)];
    let stays = [iova(&own), iova(&shared)];
    assert!(gone.iter().chain(&stays).all(|iova| reads(&rig, *iova)));
    // Two devices and two buffers.
    assert_eq!(revoke(device.handle(), number(child.handle())), Ok(4));
    assert!(!gone.iter().any(|iova| reads(&rig, *iova)));
    assert!(stays.iter().all(|iova| reads(&rig, *iova)));
    // What they are mapped at is free again; their memory is not, for somebody may see it.
    assert_eq!(rig.usage().live_runs, before.live_runs + 2);
    assert_eq!(device.map(&[piece(&theirs, 0, PAGE)]).err(), Some(Error::Revoked));
    drop((theirs, below, child, grandchild));
    assert_eq!(rig.usage(), before);
    drop((own, shared, device));
    rig.check();
}

fn r2_a_stale_translation_is_gone_before_a_revoke_is_answered(vendor: Vendor) {
    for invalidation in [Invalidation::Strict, Invalidation::Deferred] {
        let rig = with(vendor, invalidation);
        let device = rig.open();
        let child = derived(&device, Rights::DEVICE);
        let buffer = child.allocate(PAGE, ALL, "in flight").unwrap();
        let iova = buffer.iova().unwrap().get();
        // The unit has cached it, and goes on using that until it is told not to.
        assert!(reads(&rig, iova));
        let handle = HandleId(device.handle().raw().number());
        let takes = Takes::After(50_000_000);
        slow_down(&mut rig.service.lock().platform().machine_mut(), takes);
        let mut request = [0; 16];
        let asked = rig.service.lock().call(handle, Opcode::Revoke as u64, &mut request);
        assert!(matches!(asked, Ok(Outcome::Pending(_))), "{invalidation:?}: {asked:?}");
        assert!(reads(&rig, iova), "hardware has not confirmed it");
        // It is done whatever hardware says.
        let used = buffer.handle().call_bytes(Opcode::BufferInfo, &mut [0; 64]);
        assert_eq!(used, Err(Error::Revoked));
        let runs = rig.service.lock().platform().usage().live_runs;
        drop(buffer);
        assert_eq!(rig.service.lock().platform().usage().live_runs, runs);
        let answered = loop {
            if let Some(answered) = rig.service.lock().poll().pop() {
                break answered;
            }
            let kept = rig.service.lock().platform().usage().live_runs == runs;
            assert!(kept || !reads(&rig, iova));
        };
        assert!(answered.result.is_ok());
        assert!(!reads(&rig, iova));
        drop((child, device));
        rig.check();
    }
}

/// Nothing else of the session is unmapped or moved, that it could wait for instead.
fn r2_the_revoke_of_a_buffer_alone_waits_for_the_unit(vendor: Vendor) {
    for invalidation in [Invalidation::Strict, Invalidation::Deferred] {
        let policy = Policy { invalidation, ..Policy::default() };
        let rig = Rig::with_manual_clock(vendor.machine(), policy);
        let device = rig.open();
        let buffer = device.allocate(PAGE, ALL, "alone").unwrap();
        let iova = buffer.iova().unwrap().get();
        assert!(reads(&rig, iova));
        slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::After(20_000_000));
        let by = HandleId(device.handle().raw().number());
        let handle = U64::new(number(buffer.handle()));
        let mut request = Revoke { handle, reserved: U64::ZERO };
        let asked = rig.service.lock().call(by, Opcode::Revoke as u64, request.as_mut_bytes());
        let Ok(Outcome::Pending(request)) = asked else { panic!("{invalidation:?}: {asked:?}") };
        assert!(reads(&rig, iova), "hardware has not confirmed it");
        let answered = loop {
            rig.pass(Duration::from_millis(1));
            if let Some(answered) = rig.service.lock().poll().pop() {
                break answered;
            }
        };
        assert_eq!((answered.request, answered.result.is_ok()), (request, true));
        assert!(!reads(&rig, iova));
        drop((buffer, device));
        rig.check();
    }
}

fn r2_what_was_unmapped_before_is_out_of_reach_too(vendor: Vendor) {
    let rig = with(vendor, Invalidation::Deferred);
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "closed").unwrap();
    let iova = buffer.iova().unwrap().get();
    assert!(reads(&rig, iova));
    drop(buffer);
    assert!(reads(&rig, iova), "it is to be told to the unit with others");
    assert_eq!(revoke(device.handle(), number(child.handle())), Ok(1));
    assert!(!reads(&rig, iova));
    drop((child, device));
    rig.check();
}

fn r2_an_attachment_of_an_offered_buffer_ends_with_the_offer(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (one, two) = (rig.open(), open_other(&rig));
    let other = two.address();
    let buffer = one.allocate(PAGE, ALL, "offered").unwrap();
    let writes = |iova: u64| {
        rig.service.lock().platform().machine_mut().dma_write(other, iova, &[7; 8]).is_ok()
    };
    // Passed on to who drives the other device, by a handle of its own.
    let passed = weaker(buffer.handle(), Rights::BUFFER);
    let ticket = || offer(&passed, Rights::BUFFER, ALL).unwrap();
    let attached = attach(&two, ticket(), Rights::BUFFER, ALL).unwrap();
    let again = weaker(&attached, Rights::BUFFER);
    let (first, unused) = (info(&attached).iova.get(), ticket());
    let mapped = map(two.handle(), info(&attached).buffer.get()).unwrap();
    assert!(writes(first) && writes(mapped));
    assert_eq!(revoke(buffer.handle(), number(&passed)), Ok(3));
    assert!(!writes(first) && !writes(mapped), "however it was mapped");
    for handle in [&passed, &attached, &again] {
        let used = handle.call_bytes(Opcode::BufferInfo, &mut [0; 64]);
        assert_eq!(used, Err(Error::Revoked));
    }
    assert_eq!(attach(&two, unused, Rights::BUFFER, ALL).err(), Some(Error::BadTicket));
    // The device it was allocated for has it still.
    assert!(reads(&rig, buffer.iova().unwrap().get()));
    drop((passed, attached, again, buffer, one, two));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_devices_are_out_of_the_domain_of_a_revoked_handle(vendor: Vendor) {
    const FIXED: Iova = Iova::new(0x5000_0000);
    let rig = Rig::on(vendor.two_units());
    let (one, two) = (rig.open(), open_other(&rig));
    let buffer = one.allocate(PAGE, None, "shared").unwrap();
    let domain = one.new_domain("shared").create().unwrap();
    domain.map_at(FIXED, &[piece(&buffer, 0, PAGE)]).unwrap();
    let there = |rig: &Rig, device| {
        let service = rig.service.lock();
        let written = service.platform().machine_mut().dma_write(device, FIXED.get(), &[7; 8]);
        written.is_ok()
    };
    // By a ticket of a handle that is revoked.
    let passed = weaker(domain.handle(), Rights::DOMAIN);
    let mut request = Offer::default();
    passed.call_bytes(Opcode::Offer, request.as_mut_bytes()).unwrap();
    let ticket = Ticket::read_from_prefix(request.as_bytes()).unwrap().0;
    let entered = two.enter(&ticket).unwrap();
    assert!(there(&rig, two.address()));
    assert_eq!(revoke(domain.handle(), number(&passed)), Ok(1));
    assert!(!there(&rig, two.address()));
    assert!(entered.leave().is_err(), "it is out already");
    // By a device's handle that is revoked.
    let child = derived(&two, Rights::DEVICE);
    let entered = domain.attach(&child).unwrap();
    assert!(there(&rig, two.address()));
    assert_eq!(revoke(two.handle(), 0), Ok(1));
    assert!(!there(&rig, two.address()));
    drop((entered, child));
    // And when the domain's last handle is revoked, the domain has ended.
    let child = derived(&one, Rights::DEVICE);
    let theirs = child.new_domain("theirs").create().unwrap();
    theirs.map_at(FIXED, &[piece(&buffer, 0, PAGE)]).unwrap();
    let inside = theirs.attach(&one).unwrap();
    assert!(there(&rig, edu()));
    assert_eq!(revoke(one.handle(), number(theirs.handle())), Ok(1));
    assert!(!there(&rig, edu()));
    let used = theirs.handle().call_bytes(Opcode::DomainInfo, &mut [0; 64]);
    assert_eq!(used, Err(Error::Revoked));
    drop((inside, theirs, child, passed, domain, buffer, one, two));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_a_peers_bar_ends_with_the_offer(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units().with_peer_routing());
    let (one, two) = (rig.open(), open_other(&rig));
    let child = derived(&one, Rights::DEVICE);
    let ticket = child.offer_bar(0, 0, PAGE, Access::ReadWrite).unwrap();
    let peer_bar = two.attach(&ticket, Access::ReadWrite, "registers").unwrap();
    let iova = peer_bar.io_address().for_device(&two).unwrap().get();
    assert!(rings(&rig, iova, 1));
    assert_eq!(revoke(one.handle(), 0), Ok(2));
    assert!(!rings(&rig, iova, 1));
    drop((peer_bar, child, one));
    drop(two);
    rig.check();
}

fn r2_the_memory_of_a_revoked_buffer_is_kept_until_its_holder_has_closed_it(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "seen").unwrap();
    buffer.write(0, b"seen").unwrap();
    let seen_twice = libdma::SharedBuffer::from_handle(buffer.share(Rights::BUFFER).unwrap());
    let seen_twice = seen_twice.unwrap();
    assert_eq!(revoke(device.handle(), 0), Ok(3));
    // Everybody goes on seeing what they see, and nobody else sees it.
    drop(buffer);
    let mut bytes = [0; 4];
    seen_twice.read(0, &mut bytes).unwrap();
    assert_eq!((&bytes, rig.usage().live_runs), (b"seen", 1));
    // Also when the session has ended.
    drop((child, device));
    assert_eq!(rig.usage().live_runs, 1);
    seen_twice.write(0, b"mine").unwrap();
    drop(seen_twice);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_memory_is_kept_for_good_where_a_unit_does_not_confirm(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "stuck").unwrap();
    let iova = buffer.iova().unwrap().get();
    assert!(reads(&rig, iova));
    slow_down(&mut rig.service.lock().platform().machine_mut(), Takes::Never);
    assert_eq!(revoke(device.handle(), 0), Err(Error::TimedOut));
    let used = buffer.handle().call_bytes(Opcode::BufferInfo, &mut [0; 64]);
    assert_eq!(used, Err(Error::Revoked), "it is revoked all the same");
    drop((buffer, child, device));
    assert_eq!(rig.usage().live_runs, 1, "the unit may hold it for good");
    assert_eq!(rig.usage().freed_accesses, 0);
}

fn r4_a_buffer_whose_last_live_handle_closes_is_out_of_reach(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = greeted(device.handle().derive(&crate::hostile::allocate(PAGE)).unwrap());
    let shared = weaker(&buffer, Rights::READ);
    let iova = info(&buffer).iova.get();
    assert_eq!(revoke(&buffer, number(&shared)), Ok(1));
    assert!(reads(&rig, iova), "another handle to it is good still");
    drop(buffer);
    assert!(!reads(&rig, iova), "the one that is left is good for nothing");
    assert_eq!(rig.usage().live_runs, 1, "but its holder may see the memory");
    drop(shared);
    assert_eq!(rig.usage().live_runs, 0);
    drop(device);
    rig.check();
}

fn r3_what_a_closed_handle_has_mapped_is_its_parents(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(2 * PAGE, None, "mapped below").unwrap();
    let child = derived(&device, Rights::DEVICE);
    let below = copy(&child, Rights::MAP);
    let iova = map(&below, buffer.id()).unwrap();
    assert!(reads(&rig, iova));
    drop(below);
    assert!(reads(&rig, iova));
    assert_eq!(revoke(device.handle(), number(child.handle())), Ok(1));
    assert!(!reads(&rig, iova));
    drop((child, buffer, device));
    rig.check();
}

fn r2_what_is_revoked_is_out_of_reach_of_a_device_that_is_unconfined_otherwise(vendor: Vendor) {
    let rule = Rule { unopened: Some(Unopened::Identity), ..Rule::new(Devices::At(edu())) };
    let rig = Rig::with(vendor.machine(), Policy { rules: vec![rule], ..Policy::default() });
    assert!(rig.service.lock().engine().reaches_everything(edu()));
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "revoked").unwrap();
    let iova = buffer.iova().unwrap().get();
    let row = &rig.json("mappings")[0];
    let physical = row["pieces"][0]["physical"].as_str().or(row["physical"].as_str());
    let physical = physical.unwrap_or_else(|| panic!("{row}")).trim_start_matches("0x");
    let physical = u64::from_str_radix(physical, 16).unwrap();
    assert!(reads(&rig, iova) && !reads(&rig, physical));
    assert_eq!(revoke(device.handle(), 0), Ok(2));
    assert!(!reads(&rig, iova) && !reads(&rig, physical));
    drop((child, device));
    // It has not been recycled, and of what iommud gives out an unconfined device reaches nothing.
    assert!(rig.service.lock().engine().reaches_everything(edu()));
    assert!(!reads(&rig, physical));
    drop(buffer);
    rig.check();
}

#[test]
fn without_an_iommu_memory_that_a_device_was_told_of_is_kept_until_its_session_ends() {
    let rig = crate::without_iommu::rig();
    let device = rig.open();
    let child = derived(&device, Rights::DEVICE);
    let buffer = child.allocate(PAGE, ALL, "told").unwrap();
    let handle = HandleId(device.handle().raw().number());
    let mut request = Revoke::default();
    let asked = rig.service.lock().call(handle, Opcode::Revoke as u64, request.as_mut_bytes());
    assert_eq!(asked, Ok(Outcome::Done(16)));
    let used = buffer.handle().call_bytes(Opcode::BufferInfo, &mut [0; 64]);
    assert_eq!(used, Err(Error::Revoked));
    drop((buffer, child));
    assert_eq!(rig.usage().live_runs, 1, "nothing keeps the device from it");
    drop(device);
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_an_attachment_that_was_closed_is_out_of_reach_when_its_offer_is_revoked(vendor: Vendor) {
    let policy = Policy { invalidation: Invalidation::Deferred, ..Policy::default() };
    let rig = Rig::with(vendor.two_units(), policy);
    let (one, two) = (rig.open(), open_other(&rig));
    let other = two.address();
    let writes =
        |iova| rig.service.lock().platform().machine_mut().dma_write(other, iova, &[7; 8]).is_ok();
    let buffer = one.allocate(PAGE, ALL, "offered").unwrap();
    let passed = weaker(buffer.handle(), Rights::BUFFER);
    let ticket = offer(&passed, Rights::BUFFER, ALL).unwrap();
    let attached = attach(&two, ticket, Rights::BUFFER, ALL).unwrap();
    let iova = info(&attached).iova.get();
    assert!(writes(iova));
    drop(attached);
    assert!(writes(iova), "its unmap is gathered with others, and nobody waits for it");
    // No handle is left that is of the attachment; its memory is the offered buffer's all the same.
    revoke(buffer.handle(), number(&passed)).unwrap();
    assert!(!writes(iova));
    drop((passed, buffer, one, two));
    rig.check();
}
