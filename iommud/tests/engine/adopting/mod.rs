//! Daemons that die at each event of an operation, and others that go on with what they left, and die as they do, too.
//!
//! An event is a store to a table, a device's entry or the ledger, an access to a register or to configuration space, or as
//! memory is taken or given back: nothing that the daemon does to anything shared is not one.

mod deaths;
mod variants;
mod world;
