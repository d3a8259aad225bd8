//! The algorithm against a map of pages, an independent walker, and a fake format that uses everything.

mod amd;
mod amd_walkers;
mod chain;
mod fake;
mod found;
mod model;
mod near;
mod properties;
mod shapes;
mod unsnooped;
mod walked;
mod walker;
