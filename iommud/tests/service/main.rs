//! The service on simulated hardware, with libdma as its client in the same process.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

#[path = "../mortal/mod.rs"]
mod mortal;
#[path = "../engine/reach.rs"]
#[allow(dead_code, reason = "the tests of the engine use more of it")]
mod reach;

mod adopting;
mod attributes;
mod batches;
mod buffers;
mod chosen;
mod deferred;
mod domains;
mod explained;
mod faults;
mod floods;
mod foreign;
mod groups;
mod handles;
mod hostile;
mod late;
mod lost;
mod lying;
mod openings;
mod orphans;
mod peer_bars;
mod quarantine;
mod quarantine_deaths;
mod quotas;
mod recount;
mod register;
mod reports;
mod reserve;
mod reserve_deaths;
mod reset_deaths;
mod resetting;
mod restarts;
mod restricting;
mod revoking;
mod rig;
mod rights;
mod sessions;
mod sharing;
mod spoilt;
mod storms;
mod strict;
mod tickets;
mod unconfined;
mod virtio;
mod waiting;
mod without_iommu;
