//! Mappings, in a device's own addresses and in domains.

use libdma::{Access, Buffer, Device, Domain, Entered, Error, Iova, MapRequest, Mapped};
use simulated::{Machine, edu};

use crate::trials::{Trials, anything, device, with};

const AT: Iova = Iova::new(0x4000_0000);

fn pieces(buffer: &Buffer) -> [MapRequest<'_>; 2] {
    let piece = |offset| MapRequest { buffer, offset, bytes: 4096, access: Access::Read };
    [piece(0), piece(8192)]
}

/// A buffer that is not mapped, with something in it.
fn buffer(device: &Device) -> Buffer {
    let buffer = device.allocate(4 * 4096, None, "pieces").unwrap();
    buffer.write(8192, b"third page").unwrap();
    buffer
}

fn with_buffer(_: &Machine, device: &Device) -> (Buffer, Device) {
    (buffer(device), device.clone())
}

type State = (Buffer, Device);

#[test]
fn r7_what_cannot_be_mapped_is_not_mapped_at_all() {
    let mut trials = Trials::begin();
    let holds = |_: &Machine, (buffer, _): &State| {
        let mut out = [0; 10];
        buffer.read(8192, &mut out).unwrap();
        assert_eq!(&out, b"third page");
    };
    trials.all("map", with_buffer, unmapping(|(it, on)| on.map(&pieces(it))), holds);
    trials.confined(
        "map together",
        with_buffer,
        unmapping(|(it, on)| on.map_together(&pieces(it))),
        holds,
    );
    trials.confined("map at", with_buffer, unmapping(|(it, on)| on.map_at(AT, &pieces(it))), holds);
    trials.all("look up", with_buffer, with(|(_, on): &mut State| on.lookup(AT)), holds);
}

/// What it maps is unmapped, and given back with what it was mapped of.
fn unmapping(
    map: impl Fn(&State) -> Result<Vec<Mapped>, Error>,
) -> impl Fn(State) -> Result<Unmapped, (Error, State)> {
    move |state| match map(&state) {
        Ok(mapped) => Ok(Unmapped { mapped, state }),
        Err(error) => Err((error, state)),
    }
}

/// Unmapped when it is dropped.
struct Unmapped {
    mapped: Vec<Mapped>,
    state: State,
}

impl Drop for Unmapped {
    fn drop(&mut self) {
        let _ = self.state.1.unmap(&self.mapped);
    }
}

#[test]
fn r7_what_cannot_be_unmapped_stays_mapped() {
    let mut trials = Trials::begin();
    trials.all(
        "unmap",
        |_, device| {
            let (buffer, device) = (buffer(device), device.clone());
            let mapped = device.map(&pieces(&buffer)).unwrap();
            (mapped, buffer, device)
        },
        with(|(mapped, _, device): &mut (Vec<Mapped>, Buffer, Device)| device.unmap(mapped)),
        |machine, (mapped, _, _)| {
            assert_eq!(machine.device_reads(mapped[1].iova(), 10).unwrap(), b"third page");
        },
    );
}

fn domain(device: &Device) -> Domain {
    device.new_domain("window").aperture(AT, 1 << 20).create().unwrap()
}

type InDomain = (Domain, Buffer, Device);

fn in_domain(_: &Machine, device: &Device) -> InDomain {
    (domain(device), buffer(device), device.clone())
}

#[test]
fn r7_what_of_a_domain_fails_leaves_it_as_it_was() {
    let mut trials = Trials::begin();
    trials.confined(
        "make a domain",
        device,
        with(|it: &mut Device| it.new_domain("window").aperture(AT, 1 << 20).create()),
        anything,
    );
    trials.confined(
        "map at, in a domain",
        in_domain,
        with(|(domain, buffer, _): &mut InDomain| domain.map_at(AT, &pieces(buffer))),
        anything,
    );
    trials.confined(
        "map, in a domain",
        in_domain,
        with(|(domain, buffer, _): &mut InDomain| domain.map(&pieces(buffer))),
        anything,
    );
    trials.confined(
        "map together, in a domain",
        in_domain,
        with(|(domain, buffer, _): &mut InDomain| domain.map_together(&pieces(buffer))),
        anything,
    );
    trials.confined(
        "unmap, in a domain",
        |_, device| {
            let (domain, buffer) = (domain(device), buffer(device));
            let mapped = domain.map_at(AT, &pieces(&buffer)).unwrap();
            let inside = domain.attach(device).unwrap();
            (inside, mapped, domain, buffer)
        },
        with(|(_, mapped, domain, _): &mut (Entered, Vec<Mapped>, Domain, Buffer)| {
            domain.unmap(mapped)
        }),
        |machine, (_, mapped, ..)| {
            assert_eq!(machine.device_reads(mapped[1].iova(), 10).unwrap(), b"third page");
        },
    );
    trials.confined(
        "look up, in a domain",
        in_domain,
        with(|(domain, ..): &mut InDomain| domain.lookup(AT)),
        anything,
    );
}

#[test]
fn r7_a_device_that_cannot_be_moved_stays_where_it_is() {
    let mut trials = Trials::begin();
    trials.confined(
        "attach",
        in_domain,
        with(|(domain, _, device): &mut InDomain| domain.attach(device)),
        anything,
    );
    trials.confined(
        "enter by a ticket",
        in_domain,
        with(|(domain, _, device): &mut InDomain| device.enter(&domain.ticket()?)),
        anything,
    );
    trials.confined(
        "leave",
        |_, device| {
            let (domain, buffer) = (domain(device), buffer(device));
            domain.map_at(AT, &pieces(&buffer)).unwrap();
            (domain.attach(device).unwrap(), domain, buffer, device.clone())
        },
        |(inside, domain, buffer, device)| match inside.leave() {
            Ok(()) => Ok((domain, buffer, device)),
            Err(refused) => Err((refused.error, (refused.into_kept(), domain, buffer, device))),
        },
        |machine, (_, domain, ..): &(Entered, Domain, Buffer, Device)| {
            assert!(machine.reads(edu(), domain.base(), 8).is_ok(), "it is inside still");
        },
    );
    trials.confined_drops("leave, by dropping it", |_, device| {
        let domain = domain(device);
        (domain.attach(device).unwrap(), domain, device.clone())
    });
}
