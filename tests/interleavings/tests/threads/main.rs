//! Threads that share a device's windows, a pool or a stream.
//!
//! Who has a block has a cell of loom's by its address, too, and changes it: loom finds two that have it at a time, and
//! one that has it without having waited for the other. When all is dropped iommud has everything back, and it saw to it
//! itself that a session ended after its buffers, and a buffer after its mapping.
#![cfg(loom)]

#[path = "../../../../libdma/tests/heap/iommud.rs"]
#[allow(dead_code, reason = "its other tests use the rest")]
mod iommud;

mod orders;
mod owners;
mod pools;
mod streams;
mod windows;
