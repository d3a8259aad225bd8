//! Bridges, functions and units: whose requests arrive where, and signed how.

mod bridges;
mod peers;
mod units;
