//! Base address registers (PCI Local Bus 3.0, 6.2.5.1): where a function's own registers are.

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr};

use super::registers::{CommandStatus, Header, read};
use crate::platform::ConfigSpace;

/// How many a function has. A bridge has two of them; those are not looked at, for nobody opens one.
pub const BARS: u8 = 6;

const FIRST_OFFSET: u16 = 0x10;
const FUNCTION_LAYOUT: u8 = 0;

/// One register.
#[bitfield(u32)]
struct Bar {
    /// Bit 0: it is of I/O ports.
    is_ports: bool,
    /// Bits 2:1: 00 an address of 32 bits, 10 one of 64, whose upper half is in the next register.
    #[bits(2)]
    width: u8,
    prefetchable: bool,
    /// The address, bits 31:4.
    #[bits(28)]
    address: u32,
}

const WIDTH_32: u8 = 0b00;
const WIDTH_64: u8 = 0b10;

/// Where the register of this number is in the function's configuration space.
pub(super) const fn offset_of(number: u8) -> u16 {
    FIRST_OFFSET + 4 * (number as u16)
}

/// Where the memory BAR of this number is; `None` if there is none, or it is of ports, or switched off. How far it goes
/// cannot be read: to learn it, one must write to it, which takes the registers away from a driver that is at work.
pub fn memory_bar(
    config: &mut impl ConfigSpace,
    function: PciAddress,
    number: u8,
) -> Option<PhysAddr> {
    let command: CommandStatus = read(config, function);
    let header: Header = read(config, function);
    if command.into_bits() == u32::MAX
        || !command.memory_space()
        || header.layout() != FUNCTION_LAYOUT
    {
        return None;
    }
    let mut at = 0;
    while at < BARS {
        let offset = offset_of(at);
        let bar = Bar::from_bits(config.config_read(function, offset));
        let is_wide = !bar.is_ports() && bar.width() == WIDTH_64;
        if at == number {
            let low = u64::from(bar.address()) << 4;
            let high = match bar.width() {
                _ if bar.is_ports() => return None,
                WIDTH_32 => 0,
                WIDTH_64 if at + 1 < BARS => config.config_read(function, offset + 4),
                _ => return None,
            };
            let start = low | u64::from(high) << 32;
            return (start != 0).then_some(PhysAddr::new(start));
        }
        // The upper half of an address is no BAR.
        at += if is_wide { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function whose configuration space is these dwords.
    struct Config([u32; 16]);

    impl ConfigSpace for Config {
        fn config_read(&mut self, _: PciAddress, offset: u16) -> u32 {
            self.0.get(usize::from(offset / 4)).copied().unwrap_or(u32::MAX)
        }

        fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {
            panic!("reading where a BAR is writes nothing");
        }
    }

    fn config(bars: [u32; 6]) -> Config {
        let mut dwords = [0; 16];
        // Memory space on.
        dwords[1] = 1 << 1;
        dwords[4..10].copy_from_slice(&bars);
        Config(dwords)
    }

    fn bars(mut config: Config) -> [Option<u64>; 7] {
        let function = "0000:00:02.0".parse().unwrap();
        core::array::from_fn(|bar| memory_bar(&mut config, function, bar as u8).map(PhysAddr::get))
    }

    #[test]
    fn a_memory_bar_is_found_in_either_width_and_ports_are_none() {
        // 32 bits prefetchable, ports, 64 bits with its upper half, nothing, and the odd width 01 of old.
        let config = config([0xfea0_0008, 0xc001, 0x4000_000c, 0x1, 0, 0xfeb0_0002]);
        let expected = [Some(0xfea0_0000), None, Some(0x1_4000_0000), None, None, None, None];
        assert_eq!(bars(config), expected);
    }

    #[test]
    fn r5_a_wide_bar_without_an_upper_half_is_none() {
        assert_eq!(bars(config([0, 0, 0, 0, 0, 0xfea0_0004])), [None; 7]);
    }

    #[test]
    fn what_is_switched_off_or_a_bridge_or_not_there_has_none() {
        let on = || config([0xfea0_0000, 0, 0, 0, 0, 0]);
        assert_eq!(bars(on())[0], Some(0xfea0_0000));
        let (mut off, mut bridge) = (on(), on());
        off.0[1] = 0;
        bridge.0[3] = 1 << 16;
        for none in [off, bridge, Config([u32::MAX; 16])] {
            assert_eq!(bars(none), [None; 7]);
        }
    }
}
