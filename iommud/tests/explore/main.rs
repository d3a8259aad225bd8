//! The unmap protocol, explored exhaustively (R2, R3, R4, R7): all orders of a few events, up to so many of them.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `clients` | what clients have, and what they know of it |
//! | `domains` | the explicit domain, and the devices in it |
//! | `event` | what can happen |
//! | `graph` | what was found: which step leads from which state to which |
//! | `requests` | what clients ask for, and what becomes of it |
//! | `restart` | iommud dies, and its clients go on |
//! | `rules` | what must be true after each event |
//! | `search` | all orders of them, those once that come to the same |
//! | `state` | what two orders of events have in common that come to the same |
//! | `world` | two devices, each behind a unit of its own, two clients, and iommud |
//!
//! Units confirm nothing by themselves: that one does is an event, and so is that iommud looks. Whatever is in tables
//! at any time is in caches at once, and stays there until it is invalidated: before and after each event, and before
//! each write to a register in it, both devices reach for all that was ever mapped. What is freed is given out again at once. Addresses are
//! scarce, so that one that is free is taken by whoever comes next.
//!
//! iommud dies between two events, whatever units have not confirmed by then, and in some searches after each access to a
//! table or a register in the midst of one. Its successor adopts what it had, over the same memory and the same caches. What
//! clients were told is true after that as it was before: what is mapped is reached at every instant, what is gone stays
//! gone, and who resumes its session has everything again but what was revoked.
//!
//! Where the search does not go twice is where all is the same that [`state`] names. What it does not name is the order of
//! allocators' free lists, the time, which passes in one event alone, and which of what a unit has done by now each request waits
//! for. So the same step may lead elsewhere the next time: that is another state, and followed as well. From where it is the
//! search goes on, and begins anew only where nothing is near that was not tried. Each says how many states it has found, by how many steps,
//! how many orders of events these are, and how many states it has lost: found once, not again, and not followed to the end.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod clients;
mod domains;
mod event;
mod graph;
#[path = "../mortal/mod.rs"]
mod mortal;
mod requests;
mod restart;
mod rules;
mod search;
mod state;
mod world;

use iommu_engine::policy::Invalidation;

use crate::event::Event;
use crate::search::{Bound, explore};
use crate::vendor::Vendor;

both! {
    r2_no_order_of_events_reuses_anything_early,
    r2_no_order_of_events_of_one_client_reuses_anything_early,
    r2_no_order_of_events_with_a_machine_to_itself_reuses_anything_early,
    r2_no_order_of_events_and_deaths_of_iommud_reuses_anything_early,
    r2_no_death_of_iommud_in_the_midst_of_an_event_reuses_anything_early,
    r2_no_order_of_events_with_a_domain_reuses_anything_early,
    r2_no_order_of_events_with_restricted_handles_reuses_anything_early,
    r2_no_order_of_events_with_large_pages_reuses_anything_early,
    #[ignore = "takes long, and is for release builds: longer orders of the same events"]
    r2_no_longer_order_of_events_reuses_anything_early,
    #[ignore = "takes long, and is for release builds: longer orders with deaths of iommud"]
    r2_no_longer_order_with_deaths_of_iommud_reuses_anything_early,
}

const WHEN: [Invalidation; 2] = [Invalidation::Strict, Invalidation::Deferred];

const LARGE: u64 = 2 << 20;

/// An AMD unit's device table takes a while to be looked through by a successor: fewer events follow each other.
const fn with_deaths(vendor: Vendor, events: usize) -> Bound {
    let fewer = match vendor {
        Vendor::Vtd => 0,
        Vendor::Amdvi => 1,
    };
    Bound { deaths: 1, ..Bound::new(events - fewer) }
}

/// Two clients, who have their devices and a buffer each.
fn r2_no_order_of_events_reuses_anything_early(vendor: Vendor) {
    for when in WHEN {
        explore(vendor, when, BOTH, Bound::new(4));
    }
}

/// One client gets further with as many events, and with more room than it needs one buffer goes from beside another.
fn r2_no_order_of_events_of_one_client_reuses_anything_early(vendor: Vendor) {
    for (when, events) in WHEN.into_iter().zip([5, 4]) {
        explore(vendor, when, ONE, Bound { clients: 1, ..Bound::new(5) });
        explore(vendor, when, HALF, Bound { clients: 1, room: 3, ..Bound::new(events) });
    }
}

/// From the very beginning.
fn r2_no_order_of_events_with_a_machine_to_itself_reuses_anything_early(vendor: Vendor) {
    for when in WHEN {
        explore(vendor, when, &[], Bound::new(5));
    }
}

/// iommud dies between two events, and its clients resume, or are late.
fn r2_no_order_of_events_and_deaths_of_iommud_reuses_anything_early(vendor: Vendor) {
    explore(vendor, Invalidation::Strict, MAPPED, with_deaths(vendor, 3));
    explore(vendor, Invalidation::Deferred, UNMAPPED, with_deaths(vendor, 3));
    // And its successor goes on: the same for both vendors, and each step takes another restart.
    if vendor == Vendor::Vtd {
        explore(vendor, Invalidation::Strict, RESUMED, with_deaths(vendor, 2));
        let one = Bound { clients: 1, room: 2, ..with_deaths(vendor, 4) };
        explore(vendor, Invalidation::Strict, ADOPTED, one);
    }
}

/// It dies after each of its accesses to tables and registers.
fn r2_no_death_of_iommud_in_the_midst_of_an_event_reuses_anything_early(vendor: Vendor) {
    let bound = Bound { anywhere: true, clients: 1, room: 2, ..with_deaths(vendor, 2) };
    explore(vendor, Invalidation::Strict, TWO, bound);
}

fn r2_no_order_of_events_with_a_domain_reuses_anything_early(vendor: Vendor) {
    let bound = Bound { domains: true, ..with_deaths(vendor, 3) };
    explore(vendor, Invalidation::Strict, INSIDE, bound);
    explore(vendor, Invalidation::Strict, BETWEEN, Bound { domains: true, ..Bound::new(2) });
}

fn r2_no_order_of_events_with_restricted_handles_reuses_anything_early(vendor: Vendor) {
    let events = match vendor {
        Vendor::Vtd => 4,
        Vendor::Amdvi => 2,
    };
    let bound = Bound { parts: true, clients: 1, deaths: 1, ..Bound::new(events) };
    explore(vendor, Invalidation::Strict, ONE, bound);
}

fn r2_no_order_of_events_with_large_pages_reuses_anything_early(vendor: Vendor) {
    let bound = Bound { bytes: LARGE, clients: 1, ..with_deaths(vendor, 3) };
    explore(vendor, Invalidation::Deferred, UNMAPPED, bound);
}

/// What it takes grows fast with each event. In release builds, shorter ones took 52 s of CPU in all: one client's up to 10
/// events (53 million orders), two clients' 5, and 7 from the very beginning.
fn r2_no_longer_order_of_events_reuses_anything_early(vendor: Vendor) {
    for when in WHEN {
        explore(vendor, when, BOTH, Bound::new(7));
        explore(vendor, when, ONE, Bound { clients: 1, ..Bound::new(11) });
        explore(vendor, when, HALF, Bound { clients: 1, room: 3, ..Bound::new(7) });
        explore(vendor, when, &[], Bound::new(10));
        explore(vendor, when, INSIDE, Bound { domains: true, ..Bound::new(5) });
        explore(vendor, when, ONE, Bound { clients: 1, room: 2, parts: true, ..Bound::new(8) });
        explore(vendor, when, BOTH, Bound { bytes: LARGE, ..Bound::new(4) });
    }
}

fn r2_no_longer_order_with_deaths_of_iommud_reuses_anything_early(vendor: Vendor) {
    let fewer = usize::from(vendor == Vendor::Amdvi);
    for when in WHEN {
        let two = Bound { deaths: 2, ..Bound::new(6 - fewer) };
        explore(vendor, when, MAPPED, two);
        explore(vendor, when, UNMAPPED, two);
        explore(vendor, when, RESUMED, two);
        let one = Bound { clients: 1, deaths: 1, room: 2, ..Bound::new(8 - fewer) };
        explore(vendor, when, MAPPED, Bound { parts: true, ..one });
        explore(vendor, when, INSIDE, Bound { domains: true, deaths: 1, ..Bound::new(5 - fewer) });
        let anywhere = Bound { anywhere: true, deaths: 1, ..Bound::new(3 - fewer) };
        explore(vendor, when, UNMAPPED, Bound { clients: 1, ..anywhere });
        explore(vendor, when, INSIDE, Bound { domains: true, ..anywhere });
        explore(vendor, when, UNMAPPED, Bound { bytes: LARGE, ..one });
    }
}

/// A beginning: the first client has its device and a buffer.
const ONE: &[&[Event]] = &[&[Event::Open(0), Event::Confirm(1), Event::Poll, Event::New(0)]];

/// And it has another, of which it has mapped the first.
const HALF: &[&[Event]] = &[ONE[0], &[Event::New(0), MAP]];

/// And the other.
const TWO: &[&[Event]] = &[HALF[0], HALF[1], &[Event::Map(0, 1, false)]];

/// Both clients have their devices and a buffer each.
const BOTH: &[&[Event]] = &[HAVE];

/// And the first has mapped it.
const MAPPED: &[&[Event]] = &[HAVE, &[MAP]];

/// And it has unmapped it again, which no unit has confirmed.
const UNMAPPED: &[&[Event]] = &[HAVE, &[MAP, Event::Unmap(0, 0)]];

/// The first has it mapped in a domain, too, which the second's device is in.
const INSIDE: &[&[Event]] = &[
    HAVE,
    &[MAP],
    &[Event::Domain, Event::MapThere, Event::Enter(1), Event::Confirm(0), Event::Poll],
];

/// It has unmapped it in its own, and its device is on the way into the other one.
const BETWEEN: &[&[Event]] =
    &[INSIDE[0], INSIDE[1], INSIDE[2], &[Event::Unmap(0, 0), Event::Enter(0), Event::Confirm(1)]];

/// Both are mapped, and iommud has died since: in its successor's domain they have no guards.
const ADOPTED: &[&[Event]] = &[TWO[0], TWO[1], TWO[2], &[Event::Restart, Event::Resume(0)]];

/// iommud has died since it was mapped, and both clients have resumed their sessions.
const RESUMED: &[&[Event]] =
    &[HAVE, &[MAP], &[Event::Restart, Event::Settle, Event::Resume(0), Event::Resume(1)]];

/// How they come to that.
const HAVE: &[Event] = &[
    Event::Open(0),
    Event::Confirm(1),
    Event::Open(1),
    Event::Confirm(0),
    Event::Poll,
    Event::Poll,
    Event::New(0),
    Event::New(1),
];

const MAP: Event = Event::Map(0, 0, false);
