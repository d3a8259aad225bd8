//! What differs between Linux and Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `linux` | a process in a Linux guest: sysfs, and handles that are sockets |
//! | `redox` | a process on Redox: pcid's channel, and handles of the `iommu` scheme |
//!
//! Either has the same names, re-exported here: `Function`, `connect`, `adopt` and `report_ready`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Function, adopt, connect, report_ready};
#[cfg(target_os = "redox")]
pub(crate) use redox::{Function, adopt, connect, report_ready};

/// The vendor of all virtio devices (Virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
/// A disk, and a disk that older drivers can drive too.
const DEVICES: [u16; 2] = [0x1042, 0x1001];

/// Whether a function is a virtio disk, by the first word of its configuration space.
fn is_disk(identity: u32) -> bool {
    let [vendor, device] = [identity as u16, (identity >> 16) as u16];
    vendor == VENDOR && DEVICES.contains(&device)
}
