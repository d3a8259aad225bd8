//! PCI functions that are the daemon's own.

use dma_types::PciAddress;
use libredox::Fd;
use libredox::error::Result;
use libredox::flag::{O_CLOEXEC, O_RDWR};

/// The functions whose channels are held: pcid gives a function to one process at a time, and to nobody else while
/// it lives (`ENOLCK`).
///
/// Opening a channel turns the function's mastering on and its messages off (pcid's `enable_function`), and
/// pcid-spawner opens that of each function that nobody holds. So what is to stay as it is set up is held first.
#[derive(Default)]
pub struct OwnFunctions {
    channels: Vec<(PciAddress, Fd)>,
}

impl OwnFunctions {
    /// Takes a function, unless it is held already.
    ///
    /// # Errors
    ///
    /// Those of pcid.
    pub fn claim(&mut self, function: PciAddress) -> Result<()> {
        if !self.channels.iter().any(|(held, _)| *held == function) {
            let path = format!("/scheme/pci/{}/channel", function.path_name());
            self.channels.push((function, Fd::open(&path, O_RDWR | O_CLOEXEC, 0)?));
        }
        Ok(())
    }
}
