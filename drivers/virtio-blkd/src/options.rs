//! The command line.

use clap::{Parser, Subcommand};
use dma_types::PciAddress;

/// Drives a virtio disk (1af4:1042 or 1af4:1001) through iommud, by the crate virtio-drivers: reads and writes its
/// sectors, of 512 bytes each.
///
/// Behind an IOMMU the disk must use it (for QEMU: virtio-blk-pci,iommu_platform=on,disable-legacy=on).
///
/// iommud is reached at $IOMMUD_SOCKET on Linux and at /scheme/iommu on Redox. If $IOMMU_DEVICE is set,
/// it is the number of an open descriptor: the device's handle, opened by another process and passed on.
///
/// Exit codes: 0 all went as it should, 1 something failed, 2 wrong usage.
#[derive(Clone, Debug, Parser)]
#[command(name = "virtio-blkd")]
pub(crate) struct Options {
    /// The disk, as 0000:00:03.0; else the passed handle's, else the first there is
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) device: Option<PciAddress>,

    /// What to do with it
    #[command(subcommand)]
    pub(crate) job: Job,
}

/// What to do with a disk.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Job {
    /// Say what disk it is
    Info,
    /// Write sectors of the disk to standard output
    Read {
        /// The first
        sector: u64,
        /// How many
        #[arg(default_value_t = 1)]
        count: u64,
    },
    /// Write standard input, which must be whole sectors, to the disk
    Write {
        /// The first
        sector: u64,
    },
    /// Say "holding", then read the whole disk over and over until killed
    Hold,
    /// Misbehave: have the disk put a sector where no memory was given to it, and say how that went
    Rogue {
        /// Which sector
        sector: u64,
        /// The I/O address: hexadecimal behind 0x
        #[arg(value_parser = driver_platform::number)]
        address: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_what_it_needs_and_nothing_else() {
        let parse = |line: &str| Options::try_parse_from(line.split(' '));
        let Job::Read { sector: 3, count: 1 } = parse("virtio-blkd read 3").unwrap().job else {
            panic!("one sector is read if not said otherwise");
        };
        let rogue = parse("virtio-blkd --device 0000:00:06.0 rogue 1 0xff000").unwrap();
        assert!(matches!(rogue.job, Job::Rogue { sector: 1, address: 0xff000 }));
        assert_eq!(rogue.device, "0000:00:06.0".parse().ok());
        for line in ["", " read", " read -1", " write 1 2", " hold 1", " rogue 1", " rogue 1 0xg"] {
            assert!(parse(&format!("virtio-blkd{line}")).is_err(), "{line}");
        }
    }
}
