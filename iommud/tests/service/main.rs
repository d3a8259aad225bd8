//! The service on simulated hardware, with libdma as its client in the same process.
#![cfg(target_os = "linux")]

mod batches;
mod buffers;
mod hostile;
mod quotas;
mod reports;
mod rig;
mod sessions;
