//! Hardware that lies: registers that read as what they do not hold, confirmations that are none, functions that are gone.

use dma_types::PciAddress;

use super::access::Machine;
use super::units::Hardware;
use crate::dram::Bus;
use crate::memory::Memory;

/// Registers of a unit that read as what they do not hold. What is written to them they take.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// The unit, VT-d units counted before AMD-Vi units.
    pub unit: usize,
    /// The register: eight bytes at this offset, a multiple of eight. `None` for all of them.
    pub register: Option<u64>,
    /// How many reads are answered rightly before.
    pub after: u64,
    /// How many are not, then.
    pub times: u64,
    /// The bits that read as zero.
    pub clear: u64,
    /// The bits that read as one.
    pub set: u64,
}

impl Lie {
    /// A unit whose registers read as all ones from then on.
    pub const fn gone(unit: usize, after: u64) -> Self {
        Self { unit, register: None, after, times: u64::MAX, clear: 0, set: u64::MAX }
    }

    /// What is read of the dword or quadword at this offset.
    pub(super) fn told(&mut self, unit: usize, at: u64, size: usize, value: u64) -> u64 {
        if self.unit != unit || self.register.is_some_and(|register| register != at & !7) {
            return value;
        }
        if self.after > 0 {
            self.after -= 1;
            return value;
        }
        if self.times == 0 {
            return value;
        }
        self.times -= 1;
        let shift = at % 8 * 8;
        let mask = u64::MAX >> (64 - 8 * size.clamp(1, 8));
        (value & !(self.clear >> shift) | self.set >> shift) & mask
    }
}

/// What a unit writes to memory when it is to say that it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirms {
    /// What it was told to.
    #[default]
    Rightly,
    /// Nothing.
    Never,
    /// A number that is so much more.
    Off(u64),
    /// What it was told to, and behind that what it had written before.
    Twice,
}

impl Confirms {
    /// What is written there, in this order, where `before` is there.
    pub(crate) fn numbers(self, value: u64, before: u64) -> impl Iterator<Item = u64> {
        let (first, second) = match self {
            Self::Rightly => (Some(value), None),
            Self::Never => (None, None),
            Self::Off(by) => (Some(value.wrapping_add(by)), None),
            Self::Twice => (Some(value), Some(before)),
        };
        first.into_iter().chain(second)
    }
}

impl<M: Memory> Machine<M> {
    /// Has a unit lie from now on, beside whatever else it lies about.
    pub fn lie(&mut self, lie: Lie) {
        self.lies.push(lie);
    }

    /// Has all units tell the truth.
    pub fn end_lies(&mut self) {
        self.lies.clear();
    }

    /// From the so-many-th read of configuration space on, this function reads as all ones, or each one does: it is gone, as
    /// far as that tells.
    pub fn hide_config_after(&mut self, function: Option<PciAddress>, reads: u64) {
        self.hidden = Some((function, reads));
    }

    /// How often configuration space has been read.
    pub fn config_reads(&self) -> u64 {
        self.config_reads.get()
    }

    /// Whether a function's configuration space reads as all ones, though it is there.
    pub(super) fn is_hidden(&self, function: PciAddress) -> bool {
        self.hidden.is_some_and(|(which, reads)| {
            self.config_reads.get() > reads && which.is_none_or(|which| which == function)
        })
    }

    /// Has a unit say so of what it has done, from now on; units are counted as above.
    pub fn set_confirms(&mut self, number: usize, confirms: Confirms) {
        match self.units.get_mut(number).map(|slot| &mut slot.hardware) {
            Some(Hardware::Vtd(unit)) => unit.set_confirms(confirms),
            Some(Hardware::Amdvi(unit)) => unit.set_confirms(confirms),
            None => {}
        }
    }

    /// Has a unit record a fault whose words are these, whatever they mean: a VT-d unit in its next recording register, with F
    /// set; an AMD-Vi unit in its log.
    pub fn record_words(&mut self, number: usize, low: u64, high: u64) {
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        match self.units.get_mut(number).map(|slot| &mut slot.hardware) {
            Some(Hardware::Vtd(unit)) => unit.record_words(low, high),
            Some(Hardware::Amdvi(unit)) => unit.log_words(bus, low, high),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_of_a_register_lies_as_the_whole_does() {
        let lie = Lie { register: Some(0x18), clear: 1 << 63, set: 1, ..Lie::gone(0, 0) };
        let told = |at, size, value| { lie }.told(0, at, size, value);
        assert_eq!(told(0x18, 8, 1 << 63), 1);
        assert_eq!((told(0x18, 4, 0), told(0x1c, 4, 1 << 31)), (1, 0));
        assert_eq!((told(0x20, 8, 7), { lie }.told(1, 0x18, 8, 7)), (7, 7));
    }

    #[test]
    fn a_lie_begins_when_it_is_to_and_ends() {
        let mut lie = Lie { after: 1, times: 2, ..Lie::gone(0, 0) };
        assert_eq!([(); 4].map(|()| lie.told(0, 0, 4, 5)), [5, 0xffff_ffff, 0xffff_ffff, 5]);
    }
}
