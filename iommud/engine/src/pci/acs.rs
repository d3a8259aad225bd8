//! Access Control Services: what keeps functions from reaching each other unseen by any IOMMU.
//!
//! A switch may pass a request from one of its ports straight to another, and a device from one of its
//! functions to another; an IOMMU sees neither. Access Control Services (PCI Express 6.12) send such requests
//! up to the root complex instead. They are off after a reset: [`enable`] turns them on, as Linux does for
//! every function that it finds. Redox's `pcid` does not.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use super::capability;
use super::function::Function;
use super::registers::{config_register, read_in};
use crate::platform::ConfigSpace;

/// The id of the ACS extended capability.
const ACS: u16 = 0x000d;

/// The services, as both registers of the capability name them.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AcsServices {
    /// V, bit 0: what comes up with a bus number that is not below the port is stopped.
    pub source_validation: bool,
    /// B, bit 1: what comes up with an address that is said to be translated already is stopped.
    pub translation_blocking: bool,
    /// R, bit 2: requests to a peer go up first.
    pub request_redirect: bool,
    /// C, bit 3: completions to a peer go up first.
    pub completion_redirect: bool,
    /// U, bit 4: what comes up, and would be sent down again the same way, goes on up.
    pub upstream_forwarding: bool,
    /// E, bit 5: a table says which peers may be reached directly, in spite of R.
    pub egress_control: bool,
    /// T, bit 6: what is said to be translated already may go to a peer directly, in spite of R.
    pub direct_translated: bool,
    /// The enhanced services in the control register; how long E's table is in the other.
    #[bits(9)]
    enhanced: u16,
}

/// The two registers where the specification has them: the capability register, at byte 4, and the control
/// register, at byte 6.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct Registers {
    #[bits(16)]
    offered: AcsServices,
    #[bits(16)]
    enabled: AcsServices,
}
config_register!(Registers, 0x04);

/// The control register of functions that have it in a dword of its own, at byte 8.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct Control {
    #[bits(16)]
    enabled: AcsServices,
    __: u16,
}
config_register!(Control, 0x08);

/// The ACS capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// What the function can do. What it lacks it has no need of, for it passes nothing on that way.
    pub offered: AcsServices,
    /// What was enabled when it was read.
    pub enabled: AcsServices,
    /// Where the dword with the control register is.
    control: u16,
    /// Whether the capability register shares that dword.
    shared: bool,
}

impl Acs {
    /// What is to be enabled: all that sends requests up, and nothing that lets any go directly.
    ///
    /// Blocking what is translated already belongs to it, for translations are never given to devices
    /// (rule R2).
    fn wanted(&self) -> AcsServices {
        let Self { offered, enabled, .. } = *self;
        enabled
            .with_source_validation(offered.source_validation())
            .with_translation_blocking(offered.translation_blocking())
            .with_request_redirect(offered.request_redirect())
            .with_completion_redirect(offered.completion_redirect())
            .with_upstream_forwarding(offered.upstream_forwarding())
            .with_egress_control(false)
            .with_direct_translated(false)
    }
}

/// The ACS capability of a PCI Express function.
pub(super) fn acs(
    config: &mut impl ConfigSpace,
    function: PciAddress,
    control_apart: bool,
) -> Option<Acs> {
    let at = capability::find_extended(config, function, ACS)?;
    let registers: Registers = read_in(config, function, at);
    if control_apart {
        let control: Control = read_in(config, function, at);
        return Some(Acs {
            offered: registers.offered(),
            enabled: control.enabled(),
            control: at.checked_add(8)?,
            shared: false,
        });
    }
    Some(Acs {
        offered: registers.offered(),
        enabled: registers.enabled(),
        control: at.checked_add(4)?,
        shared: true,
    })
}

/// Has a function send up all that could otherwise reach a peer unseen, as far as it can. Whether it does
/// now; a function without the capability is as it is, and `true`.
pub fn enable(config: &mut impl ConfigSpace, function: &mut Function) -> bool {
    let (address, Some(acs)) = (function.address, &mut function.acs) else { return true };
    let wanted = acs.wanted();
    if acs.enabled != wanted {
        let dword = if acs.shared {
            Registers::new().with_offered(acs.offered).with_enabled(wanted).into_bits()
        } else {
            Control::new().with_enabled(wanted).into_bits()
        };
        config.config_write(address, acs.control, dword);
        let dword = config.config_read(address, acs.control);
        acs.enabled = if acs.shared {
            Registers::from_bits(dword).enabled()
        } else {
            Control::from_bits(dword).enabled()
        };
    }
    acs.enabled == wanted
}

/// [Enables](enable) the services of all functions. One that does not do what it is told, or is gone, is
/// taken to have none, so that it is grouped accordingly; those functions are returned.
pub fn enable_all(
    config: &mut impl ConfigSpace,
    functions: &mut BTreeMap<PciAddress, Function>,
) -> Vec<PciAddress> {
    let mut stubborn = Vec::new();
    for (address, function) in functions {
        if !enable(config, function) {
            function.acs = None;
            stubborn.push(*address);
        }
    }
    stubborn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::function::function;
    use crate::pci::function::tests::Config;

    const PORT: &str = "00:1c.0";

    /// A root port of this vendor and device, with these registers in its ACS capability.
    fn port(identity: u32, registers: u32, next: u32) -> Config {
        let mut config = Config::default();
        config.add(PORT, identity, 0x0604_0000, 0x0001_0000, 0x0001_0100);
        config.set(PORT, 0x34, 0x40);
        config.set(PORT, 0x40, 0x0142_0010);
        config.set(PORT, 0x100, 0x1401_0001);
        config.set(PORT, 0x140, 0x0001_000d);
        config.set(PORT, 0x144, registers);
        config.set(PORT, 0x148, next);
        config
    }

    #[test]
    fn what_sends_requests_up_is_enabled_and_what_lets_them_through_is_not() {
        // V, B, R, C, U, E and T are offered; E, T and one of the enhanced services are on.
        let mut config = port(0x000c_1b36, 0x0460_007f, 0);
        let mut found = function(&mut config, PORT.parse().unwrap()).unwrap();
        assert!(enable(&mut config, &mut found));
        assert_eq!(config.written, [(found.address, 0x144, 0x041f_007f)]);
        // Again, there is nothing to do.
        assert!(enable(&mut config, &mut found));
        assert_eq!(config.written.len(), 1);
    }

    #[test]
    fn only_what_is_offered_is_enabled() {
        let mut config = port(0x000c_1b36, 0x0000_001d, 0);
        let mut found = function(&mut config, PORT.parse().unwrap()).unwrap();
        assert!(enable(&mut config, &mut found));
        assert_eq!(config.written, [(found.address, 0x144, 0x001d_001d)]);
    }

    #[test]
    fn a_control_register_in_a_dword_of_its_own_is_written_there() {
        // A root port of Intel's Sunrise Point.
        let mut config = port(0xa110_8086, 0x0000_000f, 0);
        let mut found = function(&mut config, PORT.parse().unwrap()).unwrap();
        assert!(enable(&mut config, &mut found));
        assert_eq!(config.written, [(found.address, 0x148, 0x0000_000f)]);
    }

    #[test]
    fn a_function_that_stays_as_it_was_counts_as_one_without() {
        let mut config = port(0x000c_1b36, 0x0000_001d, 0);
        config.stubborn = true;
        let mut functions = crate::pci::scan(&mut config, 0, [0]);
        let address = PORT.parse().unwrap();
        assert!(functions[&address].acs.is_some());
        assert_eq!(enable_all(&mut config, &mut functions), [address]);
        assert_eq!(functions[&address].acs, None);
    }
}
