//! Who may do what with explicit domains, and what is refused (R3, R5).

use dma_types::PciAddress;
use iommu_engine::policy::{Policy, Quotas};
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::protocol::derive::Kind;
use libdma::protocol::domain::{Create, DomainInfo, Enter, Leave};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket, derive};
use libdma::{Access, Device, Error, Handle};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{PAGE, open, other};
use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    r3_a_group_with_another_driver_does_not_enter_and_is_not_joined_inside,
    r3_domains_handles_do_what_their_rights_say,
    r3_a_ticket_of_a_buffer_is_none_of_a_domain_nor_the_other_way,
    r5_requests_that_make_no_sense_are_refused,
    domains_count_as_buffers,
}

fn r3_a_group_with_another_driver_does_not_enter_and_is_not_joined_inside(vendor: Vendor) {
    let rig = Rig::on(vendor.machine().with_switch(None));
    let [one, two]: [PciAddress; 2] = ["12:00.0", "13:00.0"].map(|it| it.parse().unwrap());
    let (first, second) = (open(&rig, one), open(&rig, two));
    let maker = rig.open();
    let domain = maker.new_domain("group").create().unwrap();
    assert_eq!(domain.attach(&first).err(), Some(Error::DeviceBusy));
    drop(second);
    let inside = domain.attach(&first).unwrap();
    // Who came now would be where the other is, with memory that is none of its business.
    assert_eq!(Device::open(rig.transport(), two).err(), Some(Error::DeviceBusy));
    inside.leave().unwrap();
    let second = open(&rig, two);
    assert_eq!(second.domain(), first.domain());
    rig.check();
}

fn r3_domains_handles_do_what_their_rights_say(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("shared").create().unwrap();
    let with = |rights: Rights| {
        let kind = U32::new(Kind::Copy as u32);
        let copy = derive::Copy { kind, rights: U32::new(rights.bits()) };
        domain.handle().derive(&copy)
    };
    let offer = |handle: &Handle| {
        let mut offer = Offer::default();
        handle.call_bytes(Opcode::Offer, offer.as_mut_bytes()).map(drop)
    };
    let info = |handle: &Handle| handle.call::<DomainInfo>(Opcode::DomainInfo, &[0u8; 0]).map(drop);
    let map = |handle: &Handle| {
        let entry = crate::chosen::entry(&buffer, 0, 0);
        let mut payload = [&[1u8, 0, 0, 0][..], &[0; 12], entry.as_bytes()].concat();
        handle.call_bytes(Opcode::Map, &mut payload).map(drop)
    };
    let (no, yes) = (Err(Error::NotPermitted), Ok(()));
    for (rights, expected) in [
        (Rights::MAP, [yes, no, no]),
        (Rights::INSPECT, [no, yes, no]),
        (Rights::SHARE, [no, no, yes]),
    ] {
        let weak = with(rights).unwrap();
        assert_eq!([map(&weak), info(&weak), offer(&weak)], expected, "{rights:?}");
    }
    for more in [Rights::ALLOCATE, Rights::READ, Rights::WRITE, Rights::ATTACH, Rights::ADMINISTER]
    {
        assert_eq!(with(more).err(), Some(Error::NotPermitted));
    }
    // It is no device, and no buffer.
    let handle = domain.handle();
    for opcode in [Opcode::DeviceInfo, Opcode::BufferInfo, Opcode::Enter, Opcode::Leave] {
        let refused = handle.call_bytes(opcode, &mut [0; 64]);
        assert_eq!(refused, Err(Error::WrongHandleKind), "{opcode:?}");
    }
    // A device handle that may not attach makes none, and moves nothing.
    let weak = device.derive(Rights::DEVICE - Rights::ATTACH).unwrap();
    let weak = Device::from_handle(weak).unwrap();
    assert_eq!(weak.new_domain("").create().err(), Some(Error::NotPermitted));
    assert_eq!(domain.attach(&weak).err(), Some(Error::NotPermitted));
    rig.check();
}

fn r3_a_ticket_of_a_buffer_is_none_of_a_domain_nor_the_other_way(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, guest) = (rig.open(), open(&rig, other()));
    let buffer = device.allocate(PAGE, None, "shared").unwrap();
    let domain = device.new_domain("shared").create().unwrap();
    let ticket = crate::tickets::offer(buffer.handle(), Rights::INSPECT, None).unwrap();
    assert_eq!(guest.enter(&Ticket(ticket)).err(), Some(Error::BadTicket));
    let ticket = domain.ticket().unwrap();
    let refused = guest.attach(&ticket, Access::Read, "a domain");
    assert_eq!(refused.err(), Some(Error::NotPermitted), "it offers no memory");
    let refused = crate::tickets::attach(&guest, ticket.0, Rights::empty(), None);
    assert_eq!(refused.err(), Some(Error::BadTicket));
    rig.check();
}

fn r5_requests_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let good = Create {
        kind: U32::new(Kind::Domain as u32),
        reserved: U32::ZERO,
        base: U64::ZERO,
        bytes: U64::ZERO,
        label: *b"label\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    for (bad, error) in [
        (Create { reserved: U32::new(1), ..good }, Error::BadValue),
        (Create { label: [0xff; 32], ..good }, Error::BadValue),
        (Create { base: U64::new(PAGE), ..good }, Error::ZeroSize),
        (Create { bytes: U64::new(u64::MAX), ..good }, Error::BadAlignment),
    ] {
        assert_eq!(device.handle().derive(&bad).err(), Some(error), "{bad:?}");
    }
    let short = &good.as_bytes()[..40];
    let refused = device.handle().derive_bytes(short);
    assert_eq!(refused.err(), Some(Error::ShortPayload));
    let domain = device.handle().derive(&good).unwrap();
    let mut payload = [0; 64];
    assert_eq!(domain.call_bytes(Opcode::DomainInfo, &mut payload), Err(Error::NoHandshake));
    let _: Welcome = domain.call(Opcode::Hello, &Hello::new()).unwrap();
    for request in [Kind::Domain, Kind::Allocate, Kind::Attach, Kind::Register] {
        let mut bytes = [0; 128];
        bytes[0] = request as u8;
        let refused = domain.derive_bytes(&bytes);
        assert!(matches!(refused, Err(Error::NotPermitted | Error::WrongHandleKind)));
    }
    let bad = Offer { rights: U32::new(Rights::SHARE.bits()), ..Offer::default() };
    for mut offer in [bad, Offer { bytes: U64::new(1), ..Offer::default() }] {
        let refused = domain.call_bytes(Opcode::Offer, offer.as_mut_bytes());
        assert_eq!(refused, Err(Error::BadValue), "{offer:?}");
    }
    for (opcode, most) in [
        (Opcode::Enter, size_of::<Enter>()),
        (Opcode::Leave, size_of::<Leave>()),
        (Opcode::Lookup, 8),
    ] {
        for length in 0..most {
            let refused = device.handle().call_bytes(opcode, &mut payload[..length]);
            assert_eq!(refused, Err(Error::ShortPayload), "{opcode:?}, {length} bytes");
        }
    }
    let leave = device.handle().call_bytes(Opcode::Leave, &mut payload);
    assert_eq!(leave, Err(Error::NotEntered));
    rig.check();
}

fn domains_count_as_buffers(vendor: Vendor) {
    let quotas = Quotas { buffers: 3, ..Quotas::default() };
    let rig = Rig::with(vendor.machine(), Policy { quotas, ..Policy::default() });
    let device = rig.open();
    let _buffer = device.allocate(PAGE, None, "one").unwrap();
    let domains = [(); 2].map(|()| device.new_domain("").create().unwrap());
    assert_eq!(device.new_domain("").create().err(), Some(Error::QuotaExceeded));
    assert_eq!(device.allocate(PAGE, None, "more").err(), Some(Error::QuotaExceeded));
    drop(domains);
    drop(device.new_domain("").create().unwrap());
    rig.check();
}
