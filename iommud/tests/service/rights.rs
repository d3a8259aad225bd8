//! What takes which right: each request without one of the rights that it takes is refused and changes nothing, and these
//! are enough (R3, R7).

use iommu_sim::pci::ExpressKind;
use libdma::protocol::call::{BatchHeader, Opcode, UnmapEntry, access_code};
use libdma::protocol::derive::{Allocate, Kind, NO_LIMITS, Register, Restrict};
use libdma::protocol::domain::{Create, Enter, Leave};
use libdma::protocol::handle::{Reset, Revoke};
use libdma::protocol::resume::{Reclaim, Thing};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Buffer, Device, Domain, Error, Handle};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::chosen::piece;
use crate::revoking::{derived, number};
use crate::rig::Rig;
use crate::tickets::{attaching, greeted, offer, open_other, weaker};
use crate::vendor::Vendor;

both! {
    r3_each_request_takes_its_rights_and_no_others,
    r3_no_derived_handle_has_a_right_that_its_parent_has_not,
    r3_registers_are_offered_for_what_the_handle_may_do_and_no_more,
}

const PAGE: u64 = 4096;

/// A device, another one, and what the first has.
struct World {
    rig: Rig,
    device: Device,
    other: Device,
    buffer: Buffer,
    domain: Domain,
    sibling: Device,
}

impl World {
    fn new(vendor: Vendor) -> Self {
        let mut config = vendor.two_units().with_peer_routing();
        config.edus[0].express = Some(ExpressKind::IntegratedEndpoint);
        let rig = Rig::on(config);
        let (device, other) = (rig.open(), open_other(&rig));
        let buffer = device.allocate(PAGE, Some(Access::ReadWrite), "the opener's").unwrap();
        let domain = device.new_domain("the opener's").create().unwrap();
        // From its first device on it has a number at the unit.
        domain.attach(&device).unwrap().leave().unwrap();
        let sibling = derived(&device, Rights::DEVICE);
        Self { rig, device, other, buffer, domain, sibling }
    }

    /// A handle of the opener's with these rights.
    fn handle(&self, of: Of, rights: Rights) -> Handle {
        match of {
            Of::Device => greeted(self.device.derive(rights).unwrap()),
            Of::Buffer => weaker(self.buffer.handle(), rights),
            Of::Domain => weaker(self.domain.handle(), rights),
        }
    }

    /// All that a request that is refused leaves as it is.
    fn state(&self) -> (String, String, String, usize, u64) {
        let tickets = self.rig.service.lock().tickets().len();
        let texts = ["handles", "mappings", "domains"].map(|path| self.rig.text(path));
        let [handles, mappings, domains] = texts;
        (handles, mappings, domains, tickets, self.sibling.renew().unwrap())
    }
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Device,
    Buffer,
    Domain,
}

impl Of {
    const fn all(self) -> Rights {
        match self {
            Self::Device => Rights::DEVICE,
            Self::Buffer => Rights::BUFFER,
            Self::Domain => Rights::DOMAIN,
        }
    }
}

/// What is asked on a handle.
type Act = fn(&World, &Handle) -> Result<(), Error>;

const ALLOCATE: Rights = Rights::ALLOCATE;
const MAP: Rights = Rights::MAP;
const READ: Rights = Rights::READ;
const WRITE: Rights = Rights::WRITE;
const INSPECT: Rights = Rights::INSPECT;
const SHARE: Rights = Rights::SHARE;

/// Every request that takes a right, and which.
const REQUESTS: &[(&str, Of, Rights, Act)] = &[
    ("allocate", Of::Device, ALLOCATE, |_, handle| allocate(handle, Kind::Allocate)),
    ("allocate contiguous", Of::Device, ALLOCATE, |_, handle| {
        allocate(handle, Kind::AllocateContiguous)
    }),
    ("register", Of::Device, ALLOCATE, |_, handle| register(handle)),
    ("attach to read", Of::Device, ALLOCATE.union(READ), attach),
    ("reclaim", Of::Device, Rights::DEVICE, |_, handle| reclaim(handle)),
    ("end resume", Of::Device, Rights::DEVICE, |_, handle| call(handle, Opcode::EndResume, &[])),
    ("make a domain", Of::Device, Rights::ATTACH, |_, handle| make_domain(handle)),
    ("enter", Of::Device, Rights::ATTACH, enter),
    ("leave", Of::Device, Rights::ATTACH, leave),
    ("map", Of::Device, MAP, map),
    ("unmap", Of::Device, MAP, unmap),
    ("inspect the device", Of::Device, INSPECT, |_, handle| call(handle, Opcode::DeviceInfo, &[])),
    ("look up", Of::Device, INSPECT, |_, handle| call(handle, Opcode::Lookup, &[0; 64])),
    ("look up what is next", Of::Device, INSPECT, |world, handle| {
        let mut request = [0; 64];
        request[8..16].copy_from_slice(&world.buffer.id().to_le_bytes());
        call(handle, Opcode::Next, &request)
    }),
    ("read events", Of::Device, INSPECT, |_, handle| {
        call(handle, Opcode::Events, &1u32.to_le_bytes())
    }),
    ("offer registers to be read", Of::Device, SHARE.union(READ), |_, handle| {
        offer_registers(handle, Access::Read)
    }),
    ("offer registers to be written", Of::Device, SHARE.union(WRITE), |_, handle| {
        offer_registers(handle, Access::Write)
    }),
    ("reset", Of::Device, Rights::ADMINISTER, |_, handle| {
        call(handle, Opcode::Reset, Reset::default().as_bytes())
    }),
    ("revoke another's", Of::Device, Rights::ADMINISTER, |world, handle| {
        let number = U64::new(number(world.buffer.handle()));
        let request = Revoke { handle: number, reserved: U64::ZERO };
        call(handle, Opcode::Revoke, request.as_bytes())
    }),
    ("inspect a buffer", Of::Buffer, INSPECT, |_, handle| call(handle, Opcode::BufferInfo, &[])),
    ("see memory", Of::Buffer, READ, |_, handle| handle.map_buffer(PAGE as usize, false).map(drop)),
    ("change memory", Of::Buffer, READ.union(WRITE), |_, handle| {
        handle.map_buffer(PAGE as usize, true).map(drop)
    }),
    ("offer", Of::Buffer, SHARE, |_, handle| offer(handle, Rights::empty(), None).map(drop)),
    ("offer to be read", Of::Buffer, SHARE.union(READ), |_, handle| {
        offer(handle, Rights::empty(), Some(Access::Read)).map(drop)
    }),
    ("offer to be written", Of::Buffer, SHARE.union(WRITE), |_, handle| {
        offer(handle, Rights::empty(), Some(Access::Write)).map(drop)
    }),
    ("offer with rights", Of::Buffer, SHARE.union(INSPECT), |_, handle| {
        offer(handle, Rights::INSPECT, None).map(drop)
    }),
    ("map in a domain", Of::Domain, MAP, map),
    ("inspect a domain", Of::Domain, INSPECT, |_, handle| call(handle, Opcode::DomainInfo, &[])),
    ("look up in a domain", Of::Domain, INSPECT, |_, handle| {
        call(handle, Opcode::Lookup, &[0; 64])
    }),
    ("offer a domain", Of::Domain, SHARE, |_, handle| {
        offer(handle, Rights::empty(), None).map(drop)
    }),
];

fn call(handle: &Handle, opcode: Opcode, request: &[u8]) -> Result<(), Error> {
    let mut payload = [0; 256];
    payload[..request.len()].copy_from_slice(request);
    handle.call_bytes(opcode, &mut payload).map(drop)
}

fn allocate(handle: &Handle, kind: Kind) -> Result<(), Error> {
    let request = Allocate { kind: U32::new(kind as u32), ..crate::hostile::allocate(PAGE) };
    handle.derive(&request).map(drop)
}

fn register(handle: &Handle) -> Result<(), Error> {
    let request = Register {
        kind: U32::new(Kind::Register as u32),
        bytes: U64::new(PAGE),
        align: U64::new(PAGE),
        ..Register::new_zeroed()
    };
    handle.derive(&request).map(drop)
}

fn attach(world: &World, handle: &Handle) -> Result<(), Error> {
    let offered = world.other.allocate(PAGE, None, "offered").unwrap();
    let ticket = offer(offered.handle(), Rights::BUFFER, Some(Access::Read)).unwrap();
    let attached = handle.derive(&attaching(ticket, Rights::READ, Some(Access::Read)));
    drop(offered);
    attached.map(drop)
}

/// Nothing waits here to be reclaimed, and who may not does not learn that.
fn reclaim(handle: &Handle) -> Result<(), Error> {
    let request = Reclaim {
        kind: U32::new(Kind::Reclaim as u32),
        rights: U32::ZERO,
        thing: U32::new(Thing::Buffer as u32),
        reserved: U32::ZERO,
        number: U64::new(1),
    };
    match handle.derive(&request).map(drop) {
        Err(Error::NotYours) => Ok(()),
        other => other,
    }
}

fn make_domain(handle: &Handle) -> Result<(), Error> {
    let kind = U32::new(Kind::Domain as u32);
    handle.derive(&Create { kind, ..Create::new_zeroed() }).map(drop)
}

fn ticket_of(domain: &Domain) -> Ticket {
    let mut request = Offer::default();
    domain.handle().call_bytes(Opcode::Offer, request.as_mut_bytes()).unwrap();
    Ticket::read_from_prefix(request.as_bytes()).unwrap().0
}

fn enter(world: &World, handle: &Handle) -> Result<(), Error> {
    let domain = world.device.new_domain("to be entered").create().unwrap();
    let request = Enter { ticket: ticket_of(&domain).0 };
    call(handle, Opcode::Enter, request.as_bytes())
}

fn leave(world: &World, handle: &Handle) -> Result<(), Error> {
    let inside = world.domain.attach(&world.device).unwrap();
    let request = Leave { domain: U64::new(world.domain.id()) };
    let left = call(handle, Opcode::Leave, request.as_bytes());
    drop(inside);
    left
}

fn map(world: &World, handle: &Handle) -> Result<(), Error> {
    crate::revoking::map(handle, world.buffer.id()).map(drop)
}

fn unmap(world: &World, handle: &Handle) -> Result<(), Error> {
    let mapped = world.device.map(&[piece(&world.buffer, 0, PAGE)]).unwrap()[0];
    let header = BatchHeader { count: U32::new(1), ..BatchHeader::new_zeroed() };
    let entry = UnmapEntry { iova: U64::new(mapped.iova().get()), bytes: U64::new(PAGE) };
    let mut payload = [header.as_bytes(), entry.as_bytes()].concat();
    let unmapped = handle.call_bytes(Opcode::Unmap, &mut payload).map(drop);
    if unmapped.is_err() {
        world.device.unmap(&[mapped]).unwrap();
    }
    unmapped
}

fn offer_registers(handle: &Handle, access: Access) -> Result<(), Error> {
    let access = U32::new(access_code(access));
    let request = Offer { access, bytes: U64::new(PAGE), ..Offer::default() };
    call(handle, Opcode::Offer, request.as_bytes())
}

fn r3_each_request_takes_its_rights_and_no_others(vendor: Vendor) {
    for (name, of, needed, act) in REQUESTS {
        let world = World::new(vendor);
        for right in needed.iter() {
            let handle = world.handle(*of, of.all() - right);
            let before = world.state();
            assert_eq!(act(&world, &handle), Err(Error::NotPermitted), "{name} without {right:?}");
            assert_eq!(world.state(), before, "{name} without {right:?}");
        }
        let enough = world.handle(*of, *needed);
        assert_eq!(act(&world, &enough), Ok(()), "{name} with {needed:?}");
    }
}

fn r3_no_derived_handle_has_a_right_that_its_parent_has_not(vendor: Vendor) {
    let world = World::new(vendor);
    for of in [Of::Device, Of::Buffer, Of::Domain] {
        for right in of.all().iter() {
            let handle = world.handle(of, of.all() - right);
            let before = world.state();
            let kind = U32::new(Kind::Copy as u32);
            let rights = U32::new(right.bits());
            let copy = handle.derive(&libdma::protocol::derive::Copy { kind, rights });
            assert_eq!(copy.err(), Some(Error::NotPermitted), "{of:?} {right:?}");
            let restrict = Restrict {
                kind: U32::new(Kind::Restrict as u32),
                rights,
                access: U32::new(access_code(Access::ReadWrite)),
                last: U64::new(u64::MAX),
                limits: NO_LIMITS,
                ..Restrict::new_zeroed()
            };
            let refused = match of {
                Of::Buffer => Error::WrongHandleKind,
                Of::Device | Of::Domain => Error::NotPermitted,
            };
            assert_eq!(handle.derive(&restrict).err(), Some(refused), "{of:?} {right:?}");
            assert_eq!(world.state(), before);
        }
    }
    // What is made by a handle has no right that the handle has not, whoever offers it.
    for right in Rights::BUFFER.iter() {
        let part = world.handle(Of::Device, Rights::DEVICE - right);
        let made = part.derive(&crate::hostile::allocate(PAGE)).unwrap();
        let refused = made.derive(&libdma::protocol::derive::Copy {
            kind: U32::new(Kind::Copy as u32),
            rights: U32::new(right.bits()),
        });
        assert_eq!(refused.err(), Some(Error::NoHandshake));
        let made = greeted(made);
        let refused = made.derive(&libdma::protocol::derive::Copy {
            kind: U32::new(Kind::Copy as u32),
            rights: U32::new(right.bits()),
        });
        assert_eq!(refused.err(), Some(Error::NotPermitted), "{right:?}");
        let offered = world.other.allocate(PAGE, None, "offered").unwrap();
        let ticket = offer(offered.handle(), Rights::BUFFER, None).unwrap();
        let refused = part.derive(&attaching(ticket, right, None));
        assert_eq!(refused.err(), Some(Error::NotPermitted), "{right:?}");
    }
}

/// Reading a register can change the device as writing can: both are what the handle may have done, and no more.
fn r3_registers_are_offered_for_what_the_handle_may_do_and_no_more(vendor: Vendor) {
    let world = World::new(vendor);
    let (may, not) = (Access::Read, [Access::Write, Access::ReadWrite]);
    let part = weaker(world.device.handle(), Rights::DEVICE - Rights::WRITE);
    for access in not {
        let before = world.state();
        assert_eq!(offer_registers(&part, access), Err(Error::NotPermitted), "{access:?}");
        assert_eq!(world.state(), before);
    }
    assert_eq!(offer_registers(&part, may), Ok(()));
}
