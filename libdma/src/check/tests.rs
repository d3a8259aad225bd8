//! Each report, with its words. The places are lines of this file.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use dma_types::{Access, Iova, PciAddress};

use super::note::raw::Named;
use super::registry::Registry;
use super::{Act, Found, Kind, Note, Place, Report, Space};
use crate::fault::{Fault, Reason, Tried};
use crate::io_address::AddressSpace;

const AT: Iova = Iova::new(0x800_2000);

fn space_of(device: &str, session: u64) -> Space {
    let device = device.parse::<PciAddress>().unwrap();
    Space::new(AddressSpace { device, session, domain: None })
}

fn space() -> Space {
    space_of("0000:00:02.0", 1)
}

/// Another place.
fn there() -> Place {
    Place::here()
}

/// 1500 bytes at [`AT`], which the device may write.
fn packet(space: Space, kind: Kind) -> Note<'static> {
    let (label, access) = ("packet", Some(Access::Write));
    Note { kind, label, space, iova: Some(AT), bytes: 1500, access }
}

/// A range, as a call to the stream "packet" names it.
fn named(space: Space, iova: Iova, bytes: u64, access: Access) -> Named<'static> {
    Named { stream: "packet", space, iova, bytes, access: Some(access) }
}

/// The one sentence of these reports, with `A` and `B` for these places.
fn sentence(reports: impl IntoIterator<Item = Report>, a: Place, b: Place) -> String {
    let sentences: Vec<String> = reports.into_iter().map(|report| report.to_string()).collect();
    let [sentence] = &sentences[..] else { panic!("not one report: {sentences:?}") };
    sentence.replace(&a.to_string(), "A").replace(&b.to_string(), "B")
}

#[test]
fn a_leak_says_what_it_is_and_where_it_is_from() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Coherent), a, false);
    assert_eq!(
        sentence(registry.leaks(Found::Asked, |_| true), a, b),
        "leak on 0000:00:02.0: the coherent memory \"packet\" (1500 bytes at 0x8002000 that the device may write, \
         allocated at A) has not been given back"
    );
    let dropped = |registry: &mut Registry| {
        registry.dropped(space, Kind::Raw, Found::StreamDropped, |at| at == AT)
    };
    assert_eq!(dropped(&mut registry), [], "of another kind");
    registry.made(&packet(space, Kind::Raw), a, true);
    assert_eq!(
        sentence(dropped(&mut registry), a, b),
        "leak on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may write, mapped \
         at A) was not unmapped before its stream was dropped"
    );
    assert_eq!(dropped(&mut registry), [], "it is told once");
}

#[test]
fn what_was_given_back_is_no_leak_and_giving_it_back_again_names_both_places() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Raw), a, true);
    let mut unmap = |at| {
        let access = Some(Access::Write);
        registry.given_back(space, Kind::Raw, AT, Some(1500), access, at)
    };
    assert_eq!(unmap(a), []);
    assert_eq!(
        sentence(unmap(b), a, b),
        "double unmap on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may write, \
         mapped at A) was unmapped at A, and was to be again at B"
    );
    assert_eq!(registry.leaks(Found::Asked, |_| true), []);
}

#[test]
fn an_address_that_never_was_mapped_is_named() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    assert_eq!(
        sentence(registry.given_back(space, Kind::Raw, AT, None, None, a), a, b),
        "unknown address on 0000:00:02.0: 0x8002000 was to be given back at A, but nothing that the checker knows \
         of is or was there"
    );
    let other = self::space();
    registry.made(&packet(other, Kind::Raw), a, true);
    let reports = registry.synced(&named(space, AT, 1, Access::Write), false, a);
    assert_eq!(
        sentence(reports, a, b),
        "unknown address on 0000:00:02.0: 0x8002000 was to be synced at A, but nothing that the checker knows of is or was there"
    );
}

#[test]
fn a_wrong_size_and_a_wrong_direction_are_named_and_unmap_nothing() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    let note = packet(space, Kind::Raw);
    let mut unmap_as = |bytes, access| {
        registry.made(&note, a, true);
        registry.given_back(space, Kind::Raw, AT, Some(bytes), Some(access), a)
    };
    assert_eq!(
        sentence(unmap_as(2048, Access::Write), a, b),
        "wrong size on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may write, \
         mapped at A) was to be unmapped as 2048 bytes at A"
    );
    assert_eq!(
        sentence(unmap_as(1500, Access::Read), a, b),
        "wrong direction on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may \
         write, mapped at A) was to be unmapped at A as memory that the device may read"
    );
    assert_eq!(unmap_as(1, Access::ReadWrite).len(), 2);
    assert_eq!(registry.leaks(Found::Asked, |_| true).len(), 3, "r7");
}

#[test]
fn of_two_mappings_at_one_address_the_one_that_fits_is_unmapped() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, long) = (Place::here(), packet(space, Kind::Raw));
    let short = Note { bytes: 64, access: Some(Access::Read), ..long };
    registry.made(&long, a, true);
    registry.made(&short, a, true);
    let mut unmap = |note: Note<'_>| {
        registry.given_back(space, Kind::Raw, AT, Some(note.bytes), note.access, a)
    };
    assert_eq!((unmap(long), unmap(short)), (Vec::new(), Vec::new()));
}

#[test]
fn the_cpu_reading_what_is_the_devices_is_a_missing_sync() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Raw), a, true);
    let inside = Iova::new(AT.get() + 100);
    let touched = registry.touched(&named(space, inside, 1, Access::Write), Act::Read, b);
    assert_eq!(
        sentence(touched, a, b),
        "missing sync on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may write, \
         mapped at A) was to be read by the CPU at B, but has been the device's since A and was not synced for the CPU"
    );
    assert_eq!(registry.synced(&named(space, AT, 1500, Access::Write), false, a), []);
    assert_eq!(registry.touched(&named(space, inside, 1, Access::Write), Act::Write, a), []);
    assert_eq!(registry.synced(&named(space, inside, 100, Access::Write), true, a), []);
    assert_eq!(registry.touched(&named(space, inside, 1, Access::Write), Act::Write, a).len(), 1);
    // A sync that is refused changes nothing.
    assert_eq!(registry.synced(&named(space, inside, 1401, Access::Write), false, a).len(), 1);
    assert_eq!(registry.touched(&named(space, inside, 1, Access::Write), Act::Write, a).len(), 1);
}

#[test]
fn what_is_used_after_it_was_given_back_is_named_with_where_that_was() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    let tag = registry.made(&packet(space, Kind::Raw), a, true);
    registry.gone(tag, Some(b));
    let inside = Iova::new(AT.get() + 1499);
    let thing = "the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may write, mapped at A)";
    for (reports, act) in [
        (registry.synced(&named(space, inside, 1, Access::Write), false, a), "synced"),
        (
            registry.touched(&named(space, inside, 1, Access::Write), Act::Read, a),
            "read by the CPU",
        ),
        (
            registry.touched(&named(space, inside, 1, Access::Write), Act::Write, a),
            "written by the CPU",
        ),
    ] {
        assert_eq!(
            sentence(reports, a, b),
            format!(
                "use after unmap on 0000:00:02.0: {thing} was to be {act} at A, but was unmapped at B"
            )
        );
    }
    let beside = Iova::new(AT.get() + 1500);
    assert_eq!(
        sentence(registry.touched(&named(space, beside, 1, Access::Write), Act::Read, a), a, b),
        "unknown address on 0000:00:02.0: 0x80025dc was to be read by the CPU at A, but nothing that the checker \
         knows of is or was there"
    );
}

#[test]
fn a_sync_beyond_the_end_or_with_another_direction_is_named() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Raw), a, true);
    let inside = Iova::new(AT.get() + 1000);
    assert_eq!(
        sentence(registry.synced(&named(space, inside, 501, Access::Write), false, a), a, b),
        "wrong size on 0000:00:02.0: of the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may \
         write, mapped at A), 501 bytes from 0x80023e8 on were to be synced at A, which is beyond its end"
    );
    assert_eq!(
        sentence(registry.synced(&named(space, inside, 500, Access::Read), false, a), a, b),
        "wrong direction on 0000:00:02.0: the raw mapping \"packet\" (1500 bytes at 0x8002000 that the device may \
         write, mapped at A) was to be synced at A as memory that the device may read"
    );
}

fn denied(address: u64, tried: Tried) -> Fault {
    Fault {
        requester: "0000:00:02.0".parse().unwrap(),
        address: Iova::new(address),
        tried,
        reason: Reason::NotWritable,
        times: 1,
        at: Duration::ZERO,
        domain: None,
        behind: None,
    }
}

#[test]
fn a_fault_where_something_was_unmapped_is_explained() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    let tag = registry.made(&packet(space, Kind::Stream), a, true);
    let write = denied(0x800_2010, Tried::Write);
    assert_eq!(
        registry.explain(space, &write),
        None,
        "it is allowed: the fault is somebody else's"
    );
    registry.gone(tag, Some(b));
    assert_eq!(
        sentence(registry.explain(space, &write), a, b),
        "fault explained: 0000:00:02.0 was denied a write to 0x8002010: the page is not mapped for writing; that is \
         byte 16 of the stream \"packet\" (1500 bytes at 0x8002000 that the device may write, mapped at A), which was \
         unmapped at B"
    );
    let bridged = Fault { requester: "0000:00:01.0".parse().unwrap(), ..write };
    let said = sentence(registry.explain(space, &bridged), a, b);
    assert!(
        said.starts_with("fault explained on 0000:00:02.0: 0000:00:01.0 was denied a write"),
        "{said}"
    );
    let elsewhere = space_of("0000:01:00.0", 1);
    assert_eq!(registry.explain(elsewhere, &write), None, "of another device");
    assert!(registry.explain(self::space(), &write).is_some(), "by another handle");
    let later = space_of("0000:00:02.0", 2);
    let own = space.addresses.unwrap();
    let domain = Space::new(AddressSpace { domain: Some(7), ..own });
    assert_eq!(registry.explain(later, &write), None, "of a session that ended");
    assert_eq!(registry.explain(domain, &write), None, "of a domain");
    assert_eq!(registry.explain(space, &denied(0x800_3000, Tried::Write)), None, "beside it");
}

#[test]
fn a_fault_where_something_is_mapped_otherwise_is_explained_by_its_page_too() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    let note = Note { iova: Some(Iova::new(0x800_2040)), ..packet(space, Kind::Coherent) };
    registry.made(&note, a, false);
    assert_eq!(
        sentence(registry.explain(space, &denied(0x800_2000, Tried::Read)), a, b),
        "fault explained: 0000:00:02.0 was denied a read of 0x8002000: the page is not mapped for writing; in that \
         page is the coherent memory \"packet\" (1500 bytes at 0x8002040 that the device may write, allocated at A), \
         which is mapped, but not for reading"
    );
}

#[test]
fn what_allows_the_access_or_lies_elsewhere_in_the_page_does_not_explain_a_fault() {
    let (mut registry, space) = (Registry::new(), space());
    let note = Note { iova: Some(Iova::new(0x800_2040)), ..packet(space, Kind::Coherent) };
    registry.made(&note, Place::here(), false);
    let beside = denied(0x800_2010, Tried::Read);
    assert_eq!(registry.explain(space, &beside), None, "the address is known to the byte");
    let write = denied(0x800_2000, Tried::Write);
    assert_eq!(registry.explain(space, &write), None, "it may be written");
    let note = Note { access: Some(Access::Read), iova: Some(AT), bytes: 16, ..note };
    registry.made(&note, Place::here(), false);
    let thing = |report: Report| report.thing().map(|thing| (thing.iova, thing.access));
    let read = denied(0x800_2000, Tried::Read);
    // Only the one that may not be read, though the other is at that very byte.
    let write_only = Some((Some(Iova::new(0x800_2040)), Some(Access::Write)));
    assert_eq!(registry.explain(space, &read).and_then(thing), write_only);
    assert_eq!(registry.explain(space, &beside), None);
    let read_only = Some((Some(AT), Some(Access::Read)));
    for tried in [Tried::Access, Tried::Atomic, Tried::Translation, Tried::Page] {
        let explained = registry.explain(space, &denied(0x800_200f, tried));
        assert_eq!(explained.and_then(thing), read_only, "{tried:?}");
    }
    for tried in [Tried::Interrupt, Tried::Internal] {
        let fault = denied(0x800_200f, tried);
        assert_eq!(
            registry.explain(space, &fault),
            None,
            "{tried:?} has nothing to do with memory"
        );
    }
    let note = Note { access: Some(Access::ReadWrite), iova: Some(Iova::new(0x900_0000)), ..note };
    registry.made(&note, Place::here(), false);
    for tried in [Tried::Read, Tried::Write, Tried::Access, Tried::Atomic] {
        let fault = denied(0x900_0008, tried);
        assert_eq!(registry.explain(space, &fault), None, "it may be read and written");
    }
}

#[test]
fn of_several_things_the_one_at_the_very_address_and_then_the_newest_explains_a_fault() {
    let (mut registry, space) = (Registry::new(), space());
    let write = denied(AT.get(), Tried::Write);
    let note = Note { access: Some(Access::Read), bytes: 16, ..packet(space, Kind::Coherent) };
    let label = |registry: &Registry| {
        registry.explain(space, &write).and_then(|it| Some(it.thing()?.label.to_string()))
    };
    registry.made(&Note { label: "old", ..note }, Place::here(), false);
    registry.made(&Note { label: "new", ..note }, Place::here(), false);
    let elsewhere = Some(Iova::new(0x800_2040));
    registry.made(&Note { label: "in the page", iova: elsewhere, ..note }, Place::here(), false);
    assert_eq!(label(&registry).as_deref(), Some("new"));
}

#[test]
fn a_fault_has_nothing_to_do_with_the_domains_of_other_devices() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Buffer), a, false);
    let other = space_of("0000:01:00.0", 1);
    let domain = Space::new(AddressSpace { domain: Some(7), ..other.addresses.unwrap() });
    let note =
        Note { label: "fixed", iova: None, bytes: 0, access: None, ..packet(domain, Kind::Domain) };
    let fixed = registry.made(&note, a, false);
    let there = Some(Iova::new(0x40_0000));
    registry.made(&Note { iova: there, ..packet(domain, Kind::Mapping) }, a, false);
    let stay =
        registry.made_of(&Note { space: other, kind: Kind::Stay, ..note }, a, [fixed].into());
    let (own, of_domain) = (denied(AT.get(), Tried::Read), denied(0x40_0000, Tried::Write));
    for _ in 0..2 {
        let said = sentence(registry.explain(space, &own), a, b);
        assert!(said.ends_with("which is mapped, but not for reading"), "{said}");
        assert_eq!(registry.explain(space, &of_domain), None);
        let own = denied(AT.get(), Tried::Write);
        assert_eq!(registry.explain(space, &own), None, "the device is not away");
        // And when that device has left it.
        registry.gone(stay, Some(b));
    }
}

#[test]
fn what_is_named_twice_and_as_what_it_is_not_is_no_double_unmap() {
    let (mut registry, space) = (Registry::new(), space());
    let (a, b) = (Place::here(), there());
    registry.made(&packet(space, Kind::Mapping), a, false);
    let twice = |bytes| registry.named_twice(space, &[(AT, bytes), (AT, bytes)], b);
    assert_eq!(twice(2048), []);
    assert_eq!(
        sentence(twice(1500), a, b),
        "double unmap on 0000:00:02.0: the mapping of \"packet\" (1500 bytes at 0x8002000 that the device may write, \
         mapped at A) was to be unmapped twice by the one call at B"
    );
}

#[test]
#[cfg_attr(miri, ignore = "it would take minutes")]
fn no_more_is_remembered_than_a_fixed_number_of_things() {
    let (mut registry, space) = (Registry::new(), space());
    let a = Place::here();
    for _ in 0..1030 {
        let tag = registry.made(&packet(space, Kind::Block), a, false);
        registry.gone(tag, None);
    }
    assert_eq!(registry.remembered(), 1024);
}
