//! The message by which a function interrupts (MSI: PCI 3.0, 6.8.1).

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use super::capability::find;
use super::registers::{config_register, read_in};
use crate::platform::{ConfigSpace, MsiMessage};

/// The id of the capability (PCI 3.0, appendix H).
const MSI: u8 = 0x05;

/// Where the message's address is, from the start of the capability; its upper half behind that, if there is one.
const ADDRESS: u16 = 0x04;
const UPPER_ADDRESS: u16 = 0x08;

/// What starts the capability, and Message Control (6.8.1.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct MessageControl {
    /// Id and next capability, bits 15:0.
    __: u16,
    /// MSI Enable, bit 16.
    enabled: bool,
    /// Multiple Message Capable, bits 19:17: the logarithm of how many messages it would like.
    #[bits(3)]
    wanted_order: u8,
    /// Multiple Message Enable, bits 22:20: the logarithm of how many it has.
    #[bits(3)]
    given_order: u8,
    /// 64 bit address capable, bit 23: there is an upper half of the address.
    wide: bool,
    /// Per-vector masking capable, bit 24: there are mask and pending bits.
    maskable: bool,
    #[bits(7)]
    __: u8,
}
config_register!(MessageControl, 0x00);

impl MessageControl {
    /// Where the data are; behind them the mask bits, if there are any.
    const fn data(self) -> u16 {
        if self.wide() { 0x0c } else { 0x08 }
    }
}

/// Has a function send this message for all of its interrupts. `false` if it cannot, or does not keep what it is
/// told; then it sends none.
pub fn send(config: &mut impl ConfigSpace, function: PciAddress, message: MsiMessage) -> bool {
    let Some(at) = find(config, function, MSI) else { return false };
    let control: MessageControl = read_in(config, function, at);
    let (low, high) = (message.address.get() as u32, (message.address.get() >> 32) as u32);
    if high != 0 && !control.wide() {
        return false;
    }
    // None is sent while half of it is the old one.
    let off = control.with_enabled(false).with_given_order(0);
    config.config_write(function, at, off.into_bits());
    config.config_write(function, at + ADDRESS, low);
    if control.wide() {
        config.config_write(function, at + UPPER_ADDRESS, high);
    }
    // The data's dword has nothing else in it, and of the masks the first is the only one in use.
    config.config_write(function, at + control.data(), message.data.into());
    if control.maskable() {
        config.config_write(function, at + control.data() + 4, 0);
    }
    let on = off.with_enabled(true);
    config.config_write(function, at, on.into_bits());
    let mut holds = |offset, value| config.config_read(function, at + offset) == value;
    let holds = holds(0, on.into_bits())
        && holds(ADDRESS, low)
        && (!control.wide() || holds(UPPER_ADDRESS, high))
        && holds(control.data(), message.data.into());
    if !holds {
        config.config_write(function, at, off.into_bits());
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::function::tests::Config;
    use alloc::vec::Vec;
    use dma_types::PhysAddr;

    const AT: &str = "00:01.0";
    const MESSAGE: MsiMessage = MsiMessage { address: PhysAddr::new(0xfee0_2000), data: 0x0031 };

    fn at() -> PciAddress {
        AT.parse().unwrap()
    }

    /// A function whose MSI capability, at 50h, starts with this dword.
    fn function(header: u32) -> Config {
        let mut config = Config::default();
        config.add(AT, 0x1451_1022, 0x0806_0000, 0, 0);
        config.set(AT, 0x04, 0x0010_0000);
        config.set(AT, 0x34, 0x50);
        config.set(AT, 0x50, header);
        config
    }

    fn written(config: &Config) -> Vec<(u16, u32)> {
        config.written.iter().map(|(_, offset, value)| (*offset, *value)).collect()
    }

    #[test]
    fn the_message_is_written_while_none_is_sent() {
        let mut config = function(0x0080_0005);
        assert!(send(&mut config, at(), MESSAGE));
        let expected = [
            (0x50, 0x0080_0005),
            (0x54, 0xfee0_2000),
            (0x58, 0),
            (0x5c, 0x31),
            (0x50, 0x0081_0005),
        ];
        assert_eq!(written(&config), expected);
    }

    #[test]
    fn one_message_of_several_is_taken_and_not_masked() {
        // On, with four of eight messages, masks and a next capability.
        let mut config = function(0x01a7_6005);
        config.set(AT, 0x60, 0xff);
        assert!(send(&mut config, at(), MsiMessage { data: 0x4041, ..MESSAGE }));
        let expected = [
            (0x50, 0x0186_6005),
            (0x54, 0xfee0_2000),
            (0x58, 0),
            (0x5c, 0x4041),
            (0x60, 0),
            (0x50, 0x0187_6005),
        ];
        assert_eq!(written(&config), expected);
    }

    #[test]
    fn a_narrow_capability_has_its_data_where_the_upper_half_would_be() {
        let mut config = function(0x0100_0005);
        assert!(send(&mut config, at(), MESSAGE));
        let expected = [
            (0x50, 0x0100_0005),
            (0x54, 0xfee0_2000),
            (0x58, 0x31),
            (0x5c, 0),
            (0x50, 0x0101_0005),
        ];
        assert_eq!(written(&config), expected);
        let mut config = function(0x0000_0005);
        let far = MsiMessage { address: PhysAddr::new(0x1_fee0_0000), ..MESSAGE };
        assert!(!send(&mut config, at(), far) && config.written.is_empty());
    }

    #[test]
    fn r5_a_function_that_keeps_nothing_or_has_none_is_not_relied_on() {
        let mut config = function(0x0080_0005);
        config.stubborn = true;
        assert!(!send(&mut config, at(), MESSAGE));
        assert_eq!(written(&config).last(), Some(&(0x50, 0x0080_0005)), "it is left off");
        let mut config = function(0x0080_0011);
        assert!(!send(&mut config, at(), MESSAGE) && config.written.is_empty());
    }
}
