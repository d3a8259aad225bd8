//! Handles that were copied and then closed: whoever handed them out takes the copies back (R2, R3, R5).

use iommu_engine::policy::{Policy, Quotas};
use iommu_service::handles::handle::MOST_DERIVED;
use libdma::protocol::call::{DeviceInfo, Opcode};
use libdma::protocol::derive::{Copy, Kind};
use libdma::protocol::domain::{Enter, Entered};
use libdma::protocol::handle::HandleInfo;
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Device, Error, Handle, Iova};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::{PAGE, copy, derived, map, number, reads, revoke};
use crate::chosen::piece;
use crate::rig::Rig;
use crate::tickets::{attach, greeted, info, offer, open_other, weaker};
use crate::vendor::Vendor;

both! {
    r3_who_copies_a_handle_and_closes_it_is_revoked_all_the_same,
    r3_a_buffer_that_was_offered_by_a_copy_is_revoked_by_the_closed_original,
    r2_what_a_closed_handle_mapped_and_moved_ends_with_what_came_of_it,
    r2_what_is_gone_and_left_mappings_ends_when_all_that_was_derived_is_revoked,
    r3_a_closed_handle_is_no_more_to_be_revoked_when_nothing_of_it_is_left,
    r5_handles_that_are_copied_and_closed_are_so_many_and_no_more,
}

const ALL: Option<Access> = Some(Access::ReadWrite);

fn r3_who_copies_a_handle_and_closes_it_is_revoked_all_the_same(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let rights = Rights::ALLOCATE | Rights::MAP | Rights::BUFFER;
    let (handle, codec) = device.restricted("codec").hand_out().unwrap();
    let mut last = Device::from_handle(handle).unwrap();
    // As often as it likes.
    for _ in 0..3 {
        last = derived(&last, rights);
    }
    let buffer = last.allocate(PAGE, ALL, "mine").unwrap();
    let iova = buffer.iova().unwrap().get();
    assert!(reads(&rig, iova));
    let told: HandleInfo = last.handle().call(Opcode::HandleInfo, &[0u8; 0]).unwrap();
    assert_eq!(told.parent.get(), number(device.handle()), "the nearest that is open");
    // The owner alone may.
    assert_eq!(revoke(last.handle(), codec.number()), Err(Error::NotPermitted));
    assert_eq!(codec.revoke(), Ok(2));
    assert!(!reads(&rig, iova));
    assert_eq!(last.allocate(PAGE, ALL, "more").err(), Some(Error::Revoked));
    assert_eq!(codec.revoke(), Ok(0));
    drop((buffer, last, codec, device));
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    assert_eq!(rig.service.lock().accounts().iter().count(), 0);
    rig.check();
}

fn r3_a_buffer_that_was_offered_by_a_copy_is_revoked_by_the_closed_original(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (one, two) = (rig.open(), open_other(&rig));
    let buffer = one.allocate(PAGE, ALL, "offered").unwrap();
    let passed = weaker(buffer.handle(), Rights::BUFFER);
    let taken = one.revocable(&passed).unwrap();
    let again = weaker(&passed, Rights::BUFFER);
    let ticket = offer(&again, Rights::BUFFER, ALL).unwrap();
    let attached = attach(&two, ticket, Rights::BUFFER, ALL).unwrap();
    drop((passed, again));
    let (there, iova) = (two.address(), info(&attached).iova.get());
    let writes =
        || rig.service.lock().platform().machine_mut().dma_write(there, iova, &[7; 8]).is_ok();
    assert!(writes());
    assert_eq!(taken.revoke(), Ok(1));
    assert!(!writes() && reads(&rig, buffer.iova().unwrap().get()));
    drop((attached, buffer, one, two));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r2_what_a_closed_handle_mapped_and_moved_ends_with_what_came_of_it(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let own = device.allocate(PAGE, ALL, "own").unwrap();
    let child = copy(&device, Rights::DEVICE);
    let closed = number(&child);
    let mapped = map(&child, own.id()).unwrap();
    let domain = device.new_domain("shared").create().unwrap();
    let mut request = Offer::default();
    domain.handle().call_bytes(Opcode::Offer, request.as_mut_bytes()).unwrap();
    let Ticket(ticket) = Ticket::read_from_prefix(request.as_bytes()).unwrap().0;
    let _: Entered = child.call(Opcode::Enter, &Enter { ticket }).unwrap();
    let below = weaker(&child, Rights::INSPECT);
    drop(child);
    let iova = own.iova().unwrap().get();
    assert!(!reads(&rig, mapped) && !reads(&rig, iova), "it is in the domain");
    assert_eq!(revoke(device.handle(), closed), Ok(1));
    assert!(!reads(&rig, mapped), "which the closed one mapped");
    assert!(reads(&rig, iova), "the device is out of the domain");
    drop((below, domain, own, device));
    rig.check();
}

/// A device is opened, copied to one who copies it on; the last maps and closes.
fn r2_what_is_gone_and_left_mappings_ends_when_all_that_was_derived_is_revoked(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, ALL, "of the device's").unwrap();
    let by_device = buffer.iova().unwrap().get();
    let domain = device.new_domain("shared").create().unwrap();
    // Where nothing is in the device's own.
    let in_domain = Iova::new(0x5000_0000);
    domain.map_at(in_domain, &[piece(&buffer, 0, PAGE)]).unwrap();
    let in_domain = in_domain.get();
    let one = copy(&device, Rights::DEVICE);
    let by_one = map(&one, buffer.id()).unwrap();
    for removes in 1..4 {
        let mut chain = vec![weaker(&one, Rights::DEVICE)];
        for _ in 1..removes {
            chain.push(weaker(chain.last().unwrap(), Rights::DEVICE));
        }
        let last = chain.last().unwrap();
        let mapped = map(last, buffer.id()).unwrap();
        let ticket = offer(domain.handle(), Rights::empty(), None).unwrap();
        let _: Entered = last.call(Opcode::Enter, &Enter { ticket }).unwrap();
        assert!(reads(&rig, in_domain) && !reads(&rig, mapped));
        // From the first on, or from the last.
        if removes == 2 {
            chain.reverse();
        }
        drop(chain);
        assert!(reads(&rig, in_domain), "the device stays where it is");
        assert_eq!(revoke(&one, 0), Ok(0), "there are none any more");
        assert!(!reads(&rig, in_domain), "the device is in its own domain");
        assert!(!reads(&rig, mapped), "which the last mapped");
        assert!(reads(&rig, by_one) && reads(&rig, by_device));
    }
    // What was moved and mapped by the handle itself stays until that is revoked, by whoever is above it.
    let ticket = offer(domain.handle(), Rights::empty(), None).unwrap();
    let _: Entered = one.call(Opcode::Enter, &Enter { ticket }).unwrap();
    assert_eq!(revoke(&one, 0), Ok(0));
    assert!(reads(&rig, in_domain) && !reads(&rig, by_one));
    drop(one);
    assert!(reads(&rig, in_domain));
    assert_eq!(revoke(device.handle(), 0), Ok(2), "the buffer's and the domain's");
    assert!(![by_one, in_domain, by_device].into_iter().any(|iova| reads(&rig, iova)));
    drop((domain, buffer, device));
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    rig.check();
}

fn r3_a_closed_handle_is_no_more_to_be_revoked_when_nothing_of_it_is_left(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let (handle, codec) = device.restricted("codec").hand_out().unwrap();
    let part = greeted(handle);
    let inner = weaker(&part, Rights::ALLOCATE | Rights::BUFFER);
    let buffer = greeted(inner.derive(&crate::hostile::allocate(PAGE)).unwrap());
    drop((part, inner));
    let listed = rig.json("handles");
    let mut rows = listed.as_array().unwrap().iter();
    let of_buffer = number(&buffer).to_string();
    let row = rows.find(|row| row["handle"] == of_buffer).unwrap();
    let parent = number(device.handle()).to_string();
    assert_eq!((&row["parents"][0], &row["depth"]), (&parent.into(), &1.into()));
    drop(buffer);
    assert_eq!(codec.revoke(), Err(Error::NotPermitted));
    // Nor is it in the way of who has none above that is open.
    let equal = copy(&device, Rights::DEVICE);
    drop((codec, device));
    let told: DeviceInfo = equal.call(Opcode::DeviceInfo, &[0u8; 0]).unwrap();
    assert_ne!(told.secret, libdma::protocol::Secret::NONE);
    drop(equal);
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    rig.check();
}

fn r5_handles_that_are_copied_and_closed_are_so_many_and_no_more(vendor: Vendor) {
    let policy = Policy { quotas: Quotas { buffers: 3, ..Quotas::default() }, ..Policy::default() };
    let rig = Rig::with(vendor.machine(), policy);
    let device = rig.open();
    let again = |from: &Handle| {
        let kind = U32::new(Kind::Copy as u32);
        from.derive(&Copy { kind, rights: U32::new(Rights::INSPECT.bits()) }).map(greeted)
    };
    let mut last = again(device.handle()).unwrap();
    let first = number(&last);
    for _ in 1..MOST_DERIVED + 3 {
        last = again(&last).unwrap();
    }
    assert_eq!(rig.service.lock().handles(), 3, "the root, the device and one");
    for from in [&last, device.handle()] {
        assert_eq!(again(from).err(), Some(Error::QuotaExceeded));
    }
    let told: HandleInfo = last.call(Opcode::HandleInfo, &[0u8; 0]).unwrap();
    assert_eq!(told.parent.get(), number(device.handle()));
    assert_eq!(rig.json("handles").as_array().unwrap().len(), 2);
    // All of them go with the last.
    assert_eq!(revoke(device.handle(), first), Ok(1));
    drop(last);
    assert_eq!(revoke(device.handle(), first), Err(Error::NotPermitted));
    drop((1..MOST_DERIVED + 4).map(|_| again(device.handle()).unwrap()).collect::<Vec<_>>());
    drop(device);
    rig.check();
}
