//! Protected memory regions: VT-d 3.1, 10.4.16 to 10.4.20.
//!
//! They block DMA by physical address whether translation is on or not, as all hardware since 2015 does,
//! and what they block is not recorded as a fault. Alignment here is 2 MiB.

use super::registers::{ProtectedEnable, offset};
use crate::pace::Completion;
use crate::request::{half, with_half};

/// Bits of base and limit that hardware decodes as zeroes and ones.
const LOW_BITS: u64 = (1 << 21) - 1;

/// PMEN, PLMBASE, PLMLIMIT, PHMBASE and PHMLIMIT.
#[derive(Debug, Default)]
pub(crate) struct Protected {
    has_low: bool,
    has_high: bool,
    enable: ProtectedEnable,
    since: u64,
    low_base: u32,
    low_limit: u32,
    high_base: u64,
    high_limit: u64,
}

impl Protected {
    pub(crate) fn new(has_low: bool, has_high: bool) -> Self {
        Self { has_low, has_high, ..Self::default() }
    }

    /// Reads the dword at this offset of the register window.
    pub(crate) fn read(&self, at: u64) -> u32 {
        match at {
            offset::PROTECTED_ENABLE => self.enable.into_bits(),
            offset::PROTECTED_LOW_BASE => self.low_base,
            offset::PROTECTED_LOW_LIMIT => self.low_limit,
            _ if at < offset::PROTECTED_HIGH_LIMIT => half(self.high_base, at),
            _ => half(self.high_limit, at),
        }
    }

    /// Writes the dword at this offset of the register window.
    pub(crate) fn write(&mut self, at: u64, value: u32, now: u64) {
        let kept = value & !(LOW_BITS as u32);
        match at {
            offset::PROTECTED_ENABLE if self.has_low || self.has_high => {
                self.enable.set_enable(ProtectedEnable::from_bits(value).enable());
                self.since = now;
            }
            offset::PROTECTED_LOW_BASE if self.has_low => self.low_base = kept,
            offset::PROTECTED_LOW_LIMIT if self.has_low => self.low_limit = kept,
            offset::PROTECTED_HIGH_BASE.. if self.has_high => {
                let high = at < offset::PROTECTED_HIGH_LIMIT;
                let word = if high { &mut self.high_base } else { &mut self.high_limit };
                *word = with_half(*word, at, value) & !LOW_BITS;
            }
            _ => {}
        }
    }

    /// Lets PRS follow EPM.
    pub(crate) fn step(&mut self, timing: Completion, now: u64) {
        if timing.is_done(self.since, now) {
            self.enable.set_status(self.enable.enable());
        }
    }

    /// Whether DMA to this physical address is blocked.
    pub(crate) fn blocks(&self, address: u64) -> bool {
        let low = (u64::from(self.low_base), u64::from(self.low_limit));
        let high = (self.high_base, self.high_limit);
        let within = |(base, limit): (u64, u64)| (base..=limit | LOW_BITS).contains(&address);
        self.enable.status() && ((self.has_low && within(low)) || (self.has_high && within(high)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_block_while_their_status_is_set() {
        let mut regions = Protected::new(true, true);
        regions.write(0x68, u32::MAX, 0);
        assert_eq!(regions.read(0x68), 0xffe0_0000);
        regions.write(0x68, 0x0020_0000, 0);
        regions.write(0x6c, 0x0020_0000, 0);
        regions.write(0x74, 1, 0);
        regions.write(0x7c, 1, 0);
        assert_eq!((regions.read(0x70), regions.read(0x74), regions.read(0x7c)), (0, 1, 1));
        regions.write(0x64, 0x8000_0000, 5);
        regions.step(Completion::After(10), 14);
        assert!(!regions.blocks(0x0020_0000));
        regions.step(Completion::After(10), 15);
        assert_eq!(regions.read(0x64), 0x8000_0001);
        assert!(regions.blocks(0x0020_0000) && regions.blocks(0x003f_ffff));
        assert!(!regions.blocks(0x001f_ffff) && !regions.blocks(0x0040_0000));
        assert!(regions.blocks(0x1_0000_0000) && !regions.blocks(0x1_0020_0000));
        regions.write(0x64, 0, 20);
        regions.step(Completion::Immediate, 20);
        assert!(!regions.blocks(0x0020_0000));
        assert_eq!(regions.read(0x64), 0);
    }

    #[test]
    fn a_limit_below_the_base_protects_nothing() {
        let mut regions = Protected::new(true, false);
        regions.write(0x68, 0x0040_0000, 0);
        regions.write(0x6c, 0x0010_0000, 0);
        regions.write(0x64, 0x8000_0000, 0);
        regions.step(Completion::Immediate, 0);
        assert!(!regions.blocks(0x0040_0000) && !regions.blocks(0x0010_0000));
        assert!(!regions.blocks(0), "the high region does not exist");
    }
}
