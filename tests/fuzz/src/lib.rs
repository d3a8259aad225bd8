//! Hostile input for tests: where it comes from, how often it is tried, and how a failure is made short.
//!
//! An input is a few steps, and a step is a number, from which the test makes all that it needs by a [`Chance`]. So a
//! failure is told by numbers, and can be had again: those of the steps that are left when all are gone that it does not
//! need.
//!
//! | variable | what it says |
//! | --- | --- |
//! | `FUZZ_STEPS` | how many steps each test takes; else as many as it takes in about a second |
//! | `FUZZ_SEED` | the number of the first input, 0 if it is not set |
//! | `FUZZ_REPLAY` | the steps of one input, as a failure named them: that one is tried, and no other |

#![forbid(unsafe_code)]

mod chance;
mod trial;

pub use chance::Chance;
pub use trial::{Steps, Trial};
