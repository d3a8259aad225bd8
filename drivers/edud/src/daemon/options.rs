//! The command line.

use std::ffi::OsString;

use clap::Parser;
use dma_types::PciAddress;

use super::rogue::Kind;
use crate::registers::ADDRESS_BITS;

/// Drives QEMU's edu device (1234:11e8) through iommud: copies data to the device and back, checks it,
/// and says how it went.
///
/// iommud is reached at $IOMMUD_SOCKET on Linux and at /scheme/iommu on Redox. If $IOMMU_DEVICE is set,
/// it is the number of an open descriptor: the device's handle, opened by another process and passed on.
///
/// Exit codes: 0 all went as it should, 1 something failed, 2 wrong usage, 3 what should have been
/// refused or blocked went through.
#[derive(Clone, Debug, Parser)]
#[command(name = "edud")]
pub struct Options {
    /// The device, as 0000:00:02.0; else the passed handle's, else the first edu there is
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<PciAddress>,

    /// Drive a device that iommud simulates (0000:00:02.0 if not said otherwise)
    #[arg(long)]
    pub sim: bool,

    /// How many address bits the device has, as given to QEMU (edu's dma_mask)
    #[arg(long, value_name = "BITS", default_value_t = ADDRESS_BITS,
          value_parser = clap::value_parser!(u32).range(13..=64))]
    pub dma_mask: u32,

    /// How many times to copy there and back
    #[arg(long, default_value_t = 4)]
    pub rounds: u32,

    /// Ask iommud for memory and mappings over and over meanwhile, and say how often
    #[arg(long, group = "job")]
    pub asking: bool,

    /// Misbehave instead, and say whether it was blocked
    #[arg(long, value_name = "KIND", group = "job")]
    pub rogue: Option<Kind>,

    /// With --rogue read or physical: the address that the device is made to read from
    #[arg(long, value_name = "ADDRESS", requires = "rogue", value_parser = driver_platform::number)]
    pub address: Option<u64>,

    /// Say "holding" once a transfer runs, then go on with transfers until killed
    #[arg(long, group = "job")]
    pub hold: bool,

    /// Have memory of every kind and give it back, in an order that follows from SEED, with transfers under way, until killed
    #[arg(long, value_name = "SEED", group = "job")]
    pub traffic: Option<u64>,

    /// Ask for mappings that reach beyond a buffer, and say how they were refused
    #[arg(long, group = "job")]
    pub over_map: bool,

    /// Send data to the device and back by every kind of buffer that libdma has
    #[arg(long, group = "job")]
    pub buffers: bool,

    /// Make each mistake that libdma's checker knows ($LIBDMA_CHECK=1 turns it on), and say where in the code
    #[arg(long, group = "job")]
    pub misuse: bool,

    /// Have the device use memory that edud had before, and send iommud what is none
    #[arg(long, group = "job")]
    pub registered: bool,

    /// Open the device, then run a command that has it as $IOMMU_DEVICE, and give its exit code
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, group = "job")]
    pub pass_to: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_behind_pass_to_is_the_command() {
        let options =
            Options::try_parse_from(["edud", "--sim", "--pass-to", "edud", "--rounds", "1"])
                .unwrap();
        assert!(options.sim);
        assert_eq!((options.rounds, options.pass_to.len()), (4, 3));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            &["edud", "--hold", "--over-map"][..],
            &["edud", "--address", "0x1000"],
            &["edud", "--dma-mask", "65"],
            &["edud", "--device", "2"],
            &["edud", "--rogue", "polite"],
        ] {
            assert!(Options::try_parse_from(line).is_err(), "{line:?}");
        }
        let options =
            Options::try_parse_from(["edud", "--rogue", "physical", "--address", "0x1000"])
                .unwrap();
        assert_eq!(options.address, Some(0x1000));
    }
}
