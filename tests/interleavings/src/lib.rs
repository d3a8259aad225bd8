//! libdma's windows, pools and streams as threads share them, in every order in which these can take their locks: tests on
//! [loom](https://docs.rs/loom), in `tests/threads`, which `RUSTFLAGS="--cfg loom" cargo test -p interleavings` runs.
//! Without the flag there is nothing here.
//!
//! iommud is that of heap memory that Miri is shown, too.
