//! A driver for virtio disks, whose code for virtio is a crate that knows nothing of iommud: virtio-drivers, over libdma.
//!
//! What is shown is that such a driver is confined like any other: the disk reaches the driver's queue and copies of its
//! data, whatever addresses it is given. It carries one job out and ends; there is no scheme in which others would find
//! the disk.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `options` | the command line |
//! | `run` | from the command line to the exit code |
//! | `claim` | a disk found, opened at iommud and reset |
//! | `space` | a function's configuration space as virtio-drivers wants it |
//! | `hal` | whose memory the disk is given: the driver's, or (on purpose) somebody else's |
//! | `disk` | requests, each with a deadline |
//! | `jobs` | what the program does with a disk |
//! | `error` | why a job failed |
//!
//! What differs between Linux and Redox is in the crate `driver-platform`.
//!
//! The disk is polled: it is told to raise no interrupts.

mod claim;
mod disk;
mod error;
mod hal;
mod jobs;
mod options;
mod run;
mod space;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use options::Options;

fn main() -> ExitCode {
    match run::run(&Options::parse(), &mut io::stdin(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtio-blkd: {error}");
            ExitCode::FAILURE
        }
    }
}
