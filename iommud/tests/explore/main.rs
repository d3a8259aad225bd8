//! The unmap protocol, explored exhaustively (R2, R3, R4, R7): all orders of a few events, up to so many of them.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `event` | what can happen |
//! | `rules` | what must be true after each event |
//! | `search` | all orders of them, those once that come to the same |
//! | `state` | what two orders of events have in common that come to the same |
//! | `world` | two devices, each behind a unit of its own, two clients, and what they know |
//!
//! Units confirm nothing by themselves: that one does is an event, and so is that iommud looks. Whatever is in tables
//! at any time is in caches at once, and stays there until it is invalidated: before and after each event, and before
//! each write to a register in it, both devices reach for all that was ever mapped. What is freed is given out again at once. Addresses are
//! scarce, so that one that is free is taken by whoever comes next.
//!
//! Where the search does not go twice is where all is the same that [`state`] names. What it does not name is the order of
//! allocators' free lists, and the time, which passes in one event alone.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod event;
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
    r2_no_order_of_events_reuses_anything_early_where_unmaps_are_gathered,
    r2_no_order_of_events_of_one_client_reuses_anything_early,
    r2_no_order_of_events_with_a_machine_to_itself_reuses_anything_early,
    #[ignore = "takes minutes: longer orders of the same events"]
    r2_no_longer_order_of_events_reuses_anything_early,
}

/// Two clients, who have their devices and a buffer each.
fn r2_no_order_of_events_reuses_anything_early(vendor: Vendor) {
    explore(vendor, Invalidation::Strict, &BOTH, Bound { events: 5, clients: 2, pages: 1 });
}

fn r2_no_order_of_events_reuses_anything_early_where_unmaps_are_gathered(vendor: Vendor) {
    explore(vendor, Invalidation::Deferred, &BOTH, Bound { events: 5, clients: 2, pages: 1 });
}

/// One client gets further with as many events, and has two addresses to itself.
fn r2_no_order_of_events_of_one_client_reuses_anything_early(vendor: Vendor) {
    for when in [Invalidation::Strict, Invalidation::Deferred] {
        explore(vendor, when, &ONE, Bound { events: 8, clients: 1, pages: 2 });
    }
}

/// From the very beginning.
fn r2_no_order_of_events_with_a_machine_to_itself_reuses_anything_early(vendor: Vendor) {
    for when in [Invalidation::Strict, Invalidation::Deferred] {
        explore(vendor, when, &[], Bound { events: 6, clients: 2, pages: 1 });
    }
}

fn r2_no_longer_order_of_events_reuses_anything_early(vendor: Vendor) {
    for when in [Invalidation::Strict, Invalidation::Deferred] {
        explore(vendor, when, &BOTH, Bound { events: 7, clients: 2, pages: 1 });
        explore(vendor, when, &ONE, Bound { events: 11, clients: 1, pages: 2 });
        explore(vendor, when, &[], Bound { events: 10, clients: 2, pages: 1 });
    }
}

/// After these the first client has its device and a buffer.
const ONE: [Event; 4] = [Event::Open(0), Event::Confirm(1), Event::Poll, Event::New(0)];

/// And after these the second has, too.
const BOTH: [Event; 8] = [
    Event::Open(0),
    Event::Confirm(1),
    Event::Open(1),
    Event::Confirm(0),
    Event::Poll,
    Event::Poll,
    Event::New(0),
    Event::New(1),
];
