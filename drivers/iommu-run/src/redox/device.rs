//! Opening the device at iommud.

use dma_types::PciAddress;
use libdma::Error as DmaError;
use libdma::handle::Handle;
use libdma::protocol::call::{DEVICE_FLAG_NOT_CONFINED, DeviceInfo, Hello, Opcode, Welcome};
use libdma::protocol::path;
use libdma::transport::scheme::Scheme;

use crate::error::Error;

/// Opens the device. Its handle has the rights that a driver needs for its memory, which are all there are for a
/// device; none of them opens another one.
///
/// It is not made a [`Device`](libdma::Device), which has a thread look after it: relibc leaves the threads of a process that
/// runs another program alone (63599227, `redox-rt/src/proc.rs`). Such a thread would go on in the memory of this one and ask
/// in vain, and each time leave the kernel a thread that never starts. The driver makes one of it.
pub(super) fn open(function: PciAddress) -> Result<Handle, Error> {
    let refused = |error| match error {
        DmaError::DaemonGone => Error::NoIommud(function),
        error => Error::Device { address: function, error },
    };
    let handle = Handle::open(Scheme::new(), &path::device(function)).map_err(refused)?;
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new()).map_err(refused)?;
    let info: DeviceInfo = handle.call(Opcode::DeviceInfo, &[0u8; 0]).map_err(refused)?;
    if info.flags.get() & DEVICE_FLAG_NOT_CONFINED != 0 {
        // iommud's policy allows it, and the driver does not ask.
        eprintln!("iommu-run: {function} is NOT CONFINED: the machine has no IOMMU that is used");
    }
    Ok(handle)
}
