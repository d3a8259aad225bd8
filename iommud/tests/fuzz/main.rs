//! Hostile input to the service on simulated hardware, by number: what comes of it is an error, and no rule is broken.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `sequences` | clients that ask for anything in any order, and die |
//! | `messages` | requests that are no requests, to every kind of handle |
//! | `records` | what a unit records of its devices, with any bit set |
//! | `hardware` | a unit whose registers read as anything |
//! | `coverage` | which requests were made, and what came of them |
//! | `requests` | what is asked: a line for each request there is |
//! | `world` | a machine, a service, its clients, and what must be true of them after each step |
//!
//! How much is tried, and how a failure is had again, is in the crate `fuzz`. More of one than t0 has time for:
//! `FUZZ_STEPS=10000000 cargo test --release -p iommud --test fuzz -- --nocapture --test-threads=1 TARGET`; of all, with a
//! table of what came of it: `tests/run fuzz`.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod coverage;
mod hardware;
mod messages;
mod records;
#[path = "../service/recount.rs"]
mod recount;
mod requests;
mod sequences;
mod world;
