//! The lists of capabilities: those of conventional PCI, and the extended ones of PCI Express.

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use super::registers::{
    CapabilitiesPointer, CommandStatus, Identity, Status, config_register, read, read_in,
};
use crate::platform::ConfigSpace;

/// Where capabilities may start: after the registers that every function has (PCI 3.0, 6.7).
pub(super) const FIRST: u16 = 0x40;

/// How many capabilities of 4 bytes there is room for. A list with more is a ring (rule R5).
const MOST: usize = 48;

/// Where the extended capabilities start (PCI Express 7.6).
const FIRST_EXTENDED: u16 = 0x100;

/// How many extended capabilities of 8 bytes there is room for. A list with more is a ring (rule R5).
const MOST_EXTENDED: usize = 480;

/// What starts a capability (PCI 3.0, 6.7).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct Capability {
    id: u8,
    /// The next one. Its two lowest bits mean nothing; zero after the last.
    next: u8,
    __: u16,
}
config_register!(Capability, 0x00);

/// What starts an extended capability (PCI Express 7.6.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct ExtendedCapability {
    id: u16,
    #[bits(4)]
    version: u8,
    /// The next one. Its two lowest bits mean nothing; zero after the last.
    #[bits(12)]
    next: u16,
}
config_register!(ExtendedCapability, 0x00);

/// Where the first capability with this id is.
pub(super) fn find(config: &mut impl ConfigSpace, function: PciAddress, id: u8) -> Option<u16> {
    let command: CommandStatus = read(config, function);
    if !Status::from_bits(command.status()).capabilities() {
        return None;
    }
    let pointer: CapabilitiesPointer = read(config, function);
    let mut at = u16::from(pointer.first() & !3);
    for _ in 0..MOST {
        if at < FIRST {
            return None;
        }
        let capability: Capability = read_in(config, function, at);
        if capability.id() == id {
            return Some(at);
        }
        at = u16::from(capability.next() & !3);
    }
    None
}

/// Where the first extended capability with this id is. Only PCI Express functions have any.
pub(super) fn find_extended(
    config: &mut impl ConfigSpace,
    function: PciAddress,
    id: u16,
) -> Option<u16> {
    let mut at = FIRST_EXTENDED;
    let start: ExtendedCapability = read_in(config, function, at);
    let identity: Identity = read(config, function);
    if start.into_bits() == identity.into_bits() {
        // Where only the first 256 bytes can be reached, what is beyond may read as those again.
        return None;
    }
    for _ in 0..MOST_EXTENDED {
        if at < FIRST_EXTENDED {
            return None;
        }
        let capability: ExtendedCapability = read_in(config, function, at);
        if capability.into_bits() == 0 || capability.into_bits() == u32::MAX {
            return None;
        }
        if capability.id() == id {
            return Some(at);
        }
        at = capability.next() & !3;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::function::tests::Config;
    use proptest::prelude::*;

    const AT: &str = "00:01.0";

    fn at() -> PciAddress {
        AT.parse().unwrap()
    }

    #[test]
    fn a_list_is_walked_to_the_id_that_is_wanted() {
        let mut config = Config::default();
        config.add(AT, 0x1234_8086, 0, 0, 0);
        assert_eq!(find(&mut config, at(), 0x10), None);
        config.set(AT, 0x34, 0x0000_0050);
        config.set(AT, 0x50, 0x0003_7a01);
        // The lowest two bits of a pointer mean nothing.
        config.set(AT, 0x78, 0x0002_0010);
        assert_eq!(find(&mut config, at(), 0x10), Some(0x78));
        assert_eq!(find(&mut config, at(), 0x05), None);
        // Without the bit in the status register there is no list.
        config.set(AT, 4, 0x0000_0007);
        assert_eq!(find(&mut config, at(), 0x10), None);
    }

    #[test]
    fn r5_lists_in_a_ring_or_into_the_header_end() {
        let mut config = Config::default();
        config.add(AT, 0x1234_8086, 0, 0, 0);
        config.set(AT, 0x34, 0x40);
        config.set(AT, 0x40, 0x0000_5001);
        config.set(AT, 0x50, 0x0000_4005);
        assert_eq!(find(&mut config, at(), 0x10), None);
        config.set(AT, 0x50, 0x0000_1005);
        config.set(AT, 0x10, 0x0000_0010);
        assert_eq!(find(&mut config, at(), 0x10), None);
        config.set(AT, 0x100, 0x1501_0001);
        config.set(AT, 0x150, 0x1001_0002);
        assert_eq!(find_extended(&mut config, at(), 0x000d), None);
        config.set(AT, 0x150, 0x0401_0002);
        assert_eq!(find_extended(&mut config, at(), 0x000d), None);
    }

    #[test]
    fn what_repeats_the_first_registers_is_no_list() {
        let mut config = Config::default();
        config.add(AT, 0x1234_000d, 0, 0, 0);
        config.set(AT, 0x100, 0x1234_000d);
        assert_eq!(find_extended(&mut config, at(), 0x000d), None);
        config.set(AT, 0x100, 0x1231_000d);
        assert_eq!(find_extended(&mut config, at(), 0x000d), Some(0x100));
    }

    proptest! {
        #[test]
        fn r5_any_configuration_space_ends(words: [u32; 32], id: u16) {
            struct Random([u32; 32], usize);
            impl ConfigSpace for Random {
                fn config_read(&mut self, _: PciAddress, offset: u16) -> u32 {
                    assert!(offset.is_multiple_of(4) && offset < 0x1000);
                    self.1 += 1;
                    self.0[usize::from(offset / 4) % 32]
                }

                fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {}
            }
            let mut config = Random(words, 0);
            let _ = find(&mut config, at(), id as u8);
            let _ = find_extended(&mut config, at(), id);
            prop_assert!(config.1 < 600);
        }
    }
}
