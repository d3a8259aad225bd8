//! The message by which a unit says that it has logged an event: the MSI of its PCI function (2.1.1).
//!
//! Which of a function's messages is for events (MsiNum) does not matter: it is given one for all.

use dma_types::PciAddress;

use crate::pci;
use crate::platform::Platform;

/// Has the unit of this function send the platform's message. `false` if it cannot be had, or the function belongs to
/// somebody else: then the unit is polled.
pub fn set_up(platform: &mut impl Platform, function: PciAddress) -> bool {
    let Some(message) = platform.fault_message() else { return false };
    // First of all: giving the function to somebody turns its messages off on Redox.
    if !platform.claim_function(function) || !pci::msi::send(platform, function, message) {
        return false;
    }
    // A message is a transaction of its own.
    pci::set_bus_master(platform, function);
    true
}
