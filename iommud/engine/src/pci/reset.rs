//! Resetting a function, and nothing else of its device (FLR: PCI Express Base 6.0, 6.6.2; PCI Conventional Advanced
//! Features ECN, 6.x.5).
//!
//! What a reset takes away is put back afterwards as far as it is the system's: where the registers are, and which line
//! interrupts. Bus mastering and the function's own registers are its driver's to set up again, MSI included.
//!
//! Between the two it is nowhere but in who resets it, so that can be [written down](Saved::values).

use core::time::Duration;

use alloc::vec::Vec;

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use super::bar::{BARS, offset_of};
use super::capability::{FIRST, find};
use super::express::PCI_EXPRESS;
use super::registers::{
    CommandStatus, ConfigRegister, Header, Identity, config_register, read, read_in,
};
use crate::platform::ConfigSpace;

/// The id of the Advanced Features capability (the ECN, 6.x.1).
const ADVANCED_FEATURES: u8 = 0x13;

/// The dwords of the header that hold the cache line's size, the ROM's address and the interrupt's line (PCI 3.0, 6.1).
const CACHE_LINE: u16 = 0x0c;
const EXPANSION_ROM: u16 = 0x30;
const INTERRUPT_LINE: u16 = 0x3c;

/// How long a function is left alone after its reset began: it may do anything meanwhile (6.6.2).
pub const RESET_TIME: Duration = Duration::from_millis(100);

/// How long requests that the function has made may be waited for (6.6.2).
pub const QUIET_TIME: Duration = Duration::from_millis(100);

/// What a vendor reads as while a function is not ready (6.6.2, 2.3.2: Request Retry Status that software sees).
const NOT_READY: u16 = 0x0001;
const NO_FUNCTION: u16 = 0xffff;

/// Device Capabilities (PCI Express 7.5.3.3).
#[bitfield(u32)]
struct DeviceCapabilities {
    #[bits(28)]
    __: u32,
    /// Function Level Reset Capability, bit 28.
    function_reset: bool,
    #[bits(3)]
    __: u8,
}
config_register!(DeviceCapabilities, 0x04);

/// Device Control and Device Status (PCI Express 7.5.3.4, 7.5.3.5).
#[bitfield(u32)]
struct DeviceControl {
    #[bits(15)]
    control: u16,
    /// Initiate Function Level Reset, bit 15. On a bridge it is another.
    reset: bool,
    /// What happened, bits 20:16: cleared by ones.
    #[bits(5)]
    happened: u8,
    /// Transactions Pending, bit 21.
    pending: bool,
    #[bits(10)]
    __: u16,
}
config_register!(DeviceControl, 0x08);

/// The start of the Advanced Features capability, with AF Capabilities (the ECN, 6.x.3).
#[bitfield(u32)]
struct AdvancedFeatures {
    #[bits(24)]
    __: u32,
    /// Transactions Pending is told, bit 0 of AF Capabilities.
    tells_pending: bool,
    /// Function Level Reset, bit 1.
    function_reset: bool,
    #[bits(6)]
    __: u8,
}
config_register!(AdvancedFeatures, 0x00);

/// AF Control and AF Status (the ECN, 6.x.4).
#[bitfield(u32)]
struct AdvancedControl {
    /// Initiate FLR, bit 0.
    reset: bool,
    #[bits(7)]
    __: u8,
    /// Transactions Pending, bit 8.
    pending: bool,
    #[bits(23)]
    __: u32,
}
config_register!(AdvancedControl, 0x04);

/// What a function can be reset by, and where that capability is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetBy {
    /// PCI Express.
    Express(u16),
    /// Advanced Features of conventional PCI.
    AdvancedFeatures(u16),
}

/// What is put back after a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved(Vec<(u16, u32)>);

/// The most registers that are put back.
pub const MOST_SAVED: usize = 11;

impl ResetBy {
    /// How a function can be reset, if it can be. No bridge can.
    pub fn of(config: &mut impl ConfigSpace, function: PciAddress) -> Option<Self> {
        let header: Header = read(config, function);
        if header.layout() != 0 {
            return None;
        }
        if let Some(at) = find(config, function, PCI_EXPRESS) {
            let able: DeviceCapabilities = read_in(config, function, at);
            if able.function_reset() {
                return Some(Self::Express(at));
            }
        }
        let at = find(config, function, ADVANCED_FEATURES)?;
        let able: AdvancedFeatures = read_in(config, function, at);
        able.function_reset().then_some(Self::AdvancedFeatures(at))
    }

    /// Whether the function waits for answers to requests that it has made.
    pub fn is_pending(self, config: &mut impl ConfigSpace, function: PciAddress) -> bool {
        match self {
            Self::Express(at) => read_in::<DeviceControl>(config, function, at).pending(),
            Self::AdvancedFeatures(at) => {
                let able: AdvancedFeatures = read_in(config, function, at);
                able.tells_pending() && read_in::<AdvancedControl>(config, function, at).pending()
            }
        }
    }

    /// Begins the reset. The function is to be left alone for [`RESET_TIME`].
    pub fn begin(self, config: &mut impl ConfigSpace, function: PciAddress) {
        match self {
            Self::Express(at) => {
                let control: DeviceControl = read_in(config, function, at);
                let control = control.with_reset(true).with_happened(0);
                config.config_write(function, at + DeviceControl::OFFSET, control.into_bits());
            }
            Self::AdvancedFeatures(at) => {
                let control = AdvancedControl::new().with_reset(true);
                config.config_write(function, at + AdvancedControl::OFFSET, control.into_bits());
            }
        }
    }

    /// What is to be put back after a reset.
    pub fn save(self, config: &mut impl ConfigSpace, function: PciAddress) -> Saved {
        let dwords =
            self.saved().map(|it| (it, self.kept(it, config.config_read(function, it)))).collect();
        Saved(dwords)
    }

    /// Where what is put back is, in this order.
    fn saved(self) -> impl Iterator<Item = u16> {
        let bars = (0..BARS).map(offset_of);
        // Last of all it answers at its BARs again.
        let last = self.control().into_iter().chain([CommandStatus::OFFSET]);
        [CACHE_LINE].into_iter().chain(bars).chain([EXPANSION_ROM, INTERRUPT_LINE]).chain(last)
    }

    /// Where Device Control is, if it is put back.
    fn control(self) -> Option<u16> {
        match self {
            Self::Express(at) => Some(at + DeviceControl::OFFSET),
            Self::AdvancedFeatures(_) => None,
        }
    }

    /// What of a register is put back: nothing that does something when it is written.
    fn kept(self, offset: u16, dword: u32) -> u32 {
        if offset == CommandStatus::OFFSET {
            let command = CommandStatus::from_bits(dword);
            command.with_bus_master(false).with_status(0).into_bits()
        } else if self.control() == Some(offset) {
            DeviceControl::from_bits(dword).with_reset(false).with_happened(0).into_bits()
        } else {
            dword
        }
    }

    /// It as a word of a record: where the capability is in bits 15:0, its id in 23:16.
    pub fn to_word(self) -> u64 {
        let (id, at) = match self {
            Self::Express(at) => (PCI_EXPRESS, at),
            Self::AdvancedFeatures(at) => (ADVANCED_FEATURES, at),
        };
        u64::from(id) << 16 | u64::from(at)
    }

    /// What a word of a record is.
    pub fn from_word(word: u64) -> Option<Self> {
        let at = word as u16;
        let is_there = (FIRST..0x100).contains(&at) && at.is_multiple_of(4);
        match u8::try_from(word >> 16).ok().filter(|_| is_there)? {
            PCI_EXPRESS => Some(Self::Express(at)),
            ADVANCED_FEATURES => Some(Self::AdvancedFeatures(at)),
            _ => None,
        }
    }
}

impl Saved {
    /// What is put back, without where.
    pub fn values(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(_, dword)| *dword)
    }

    /// What [`values`](Self::values) gave of a function that is reset by this, with zeros after them. `None` if that saves
    /// no such thing.
    pub fn from_values(by: ResetBy, values: &[u32]) -> Option<Self> {
        let saved: Vec<_> = by.saved().zip(values.iter().copied()).collect();
        let as_kept = saved.iter().all(|(offset, dword)| by.kept(*offset, *dword) == *dword);
        let rest = values.get(by.saved().count()..)?;
        (as_kept && rest.iter().all(|dword| *dword == 0)).then_some(Self(saved))
    }
}

/// Whether a function answers again after its reset.
pub fn is_ready(config: &mut impl ConfigSpace, function: PciAddress) -> bool {
    let identity: Identity = read(config, function);
    !matches!(identity.vendor(), NO_FUNCTION | NOT_READY)
}

/// Puts back what a reset has taken away. The function does not master the bus.
pub fn restore(config: &mut impl ConfigSpace, function: PciAddress, Saved(saved): &Saved) {
    for (offset, dword) in saved {
        config.config_write(function, *offset, *dword);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::function::tests::Config;

    const AT: &str = "00:02.0";

    fn config() -> (Config, PciAddress) {
        let mut config = Config::default();
        config.add(AT, 0x11e8_1234, 0x00ff_0010, 0, 0);
        for offset in (0x10..0x40).step_by(4) {
            config.set(AT, offset, 0);
        }
        (config, AT.parse().unwrap())
    }

    #[test]
    fn a_function_of_pci_express_is_reset_by_these_literal_words() {
        let (mut config, at) = config();
        assert_eq!(ResetBy::of(&mut config, at), None);
        config.set(AT, 4, 0x0810_0007);
        config.set(AT, 0x10, 0xfea0_0000);
        config.set(AT, 0x34, 0x50);
        config.set(AT, 0x3c, 0x010b);
        config.set(AT, 0x50, 0x0002_0010);
        config.set(AT, 0x54, 0x0000_8001);
        config.set(AT, 0x58, 0x002f_2810);
        assert_eq!(ResetBy::of(&mut config, at), None, "it says that it cannot be");
        config.set(AT, 0x54, 0x1000_8001);
        let by = ResetBy::of(&mut config, at).unwrap();
        assert_eq!(by, ResetBy::Express(0x50));
        assert!(by.is_pending(&mut config, at));
        let saved = by.save(&mut config, at);
        by.begin(&mut config, at);
        assert_eq!(config.written.pop(), Some((at, 0x58, 0x0020_a810)));
        restore(&mut config, at, &saved);
        assert_eq!(config.written.first(), Some(&(at, 0x0c, 0)));
        assert!(config.written.contains(&(at, 0x10, 0xfea0_0000)));
        assert!(config.written.contains(&(at, 0x3c, 0x010b)));
        assert!(config.written.contains(&(at, 0x58, 0x0020_2810)));
        assert_eq!(config.written.last(), Some(&(at, 4, 0x0000_0003)), "no status, no mastering");
        config.set(AT, 0x58, 0x000f_2810);
        assert!(!by.is_pending(&mut config, at));
        // A bridge has another bit there.
        config.set(AT, 0x0c, 0x0001_0000);
        assert_eq!(ResetBy::of(&mut config, at), None);
    }

    #[test]
    fn a_function_of_conventional_pci_is_reset_by_these_literal_words() {
        let (mut config, at) = config();
        config.set(AT, 4, 0x0010_0007);
        config.set(AT, 0x34, 0x60);
        config.set(AT, 0x60, 0x0106_0013);
        config.set(AT, 0x64, 0x0000_0100);
        assert_eq!(ResetBy::of(&mut config, at), None, "it tells what is pending, and no more");
        config.set(AT, 0x60, 0x0306_0013);
        let by = ResetBy::of(&mut config, at).unwrap();
        assert_eq!(by, ResetBy::AdvancedFeatures(0x60));
        assert!(by.is_pending(&mut config, at));
        config.set(AT, 0x60, 0x0206_0013);
        assert!(!by.is_pending(&mut config, at), "it does not tell");
        by.begin(&mut config, at);
        assert_eq!(config.written, [(at, 0x64, 0x0000_0001)]);
    }

    #[test]
    fn a_function_is_ready_when_it_says_who_it_is() {
        let (mut config, at) = config();
        assert!(is_ready(&mut config, at));
        for dword in [u32::MAX, 0xffff_0001] {
            config.set(AT, 0, dword);
            assert!(!is_ready(&mut config, at));
        }
    }
}
