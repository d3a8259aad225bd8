//! All that safe code can do with DMA memory, in memory that Miri watches:
//! `MIRIFLAGS=-Zmiri-ignore-leaks cargo +nightly miri test -p libdma --test heap`. What is forgotten leaks, as it should.
//!
//! The device is a few functions of the test's, which reach what iommud mapped for it and nothing else.

mod iommud;
mod shapes;
mod turns;
mod walk;
