//! The names under `/scheme/iommu/`.
//!
//! Every node but the devices is text, an aligned table for people; with `.json` behind its name it is
//! the same as JSON for programs.

use alloc::format;
use alloc::string::String;

use dma_types::PciAddress;

/// The scheme's name: nodes are `/scheme/iommu/…`.
pub const SCHEME: &str = "iommu";

/// The IOMMUs: place, abilities, state.
pub const UNITS: &str = "units";
/// The PCI functions: which unit covers each, who holds it.
pub const DEVICES: &str = "devices";
/// Which PCI functions can only be confined together, and why.
pub const GROUPS: &str = "groups";
/// The address spaces: format, size, what is attached.
pub const DOMAINS: &str = "domains";
/// What is mapped where. It names physical addresses, so only uid 0 may open it.
pub const MAPPINGS: &str = "mappings";
/// The latest blocked accesses.
pub const FAULTS: &str = "faults";
/// What each device and user holds, what it may, and which limits have refused something.
pub const QUOTAS: &str = "quotas";
/// Who was given what: the handles, each below those that it was derived from.
pub const HANDLES: &str = "handles";
/// What the daemon was told and what it made of it.
pub const CONFIG: &str = "config";
/// What a text node's name ends with when JSON is wanted.
pub const JSON: &str = ".json";
/// The folder of the devices.
pub const DEVICE: &str = "device";

/// The folder of the devices whose sessions are to be resumed.
pub const RESUME: &str = "resume";

/// The folder of the devices again, each to be released from quarantine. Only uid 0 may open them.
pub const QUARANTINE: &str = "quarantine";

/// The path of a device: `device/ssss--bb--dd.f`.
pub fn device(address: PciAddress) -> String {
    format!("{DEVICE}/{}", address.path_name())
}

/// The path by which a session of a device is [resumed](super::resume): `resume/ssss--bb--dd.f`.
pub fn resume(address: PciAddress) -> String {
    format!("{RESUME}/{}", address.path_name())
}

/// Whether a path is one by which a session is [resumed](super::resume), of whichever device.
pub fn is_resume(path: &str) -> bool {
    path.strip_prefix(RESUME).is_some_and(|rest| rest.starts_with('/'))
}

/// The path at which a device is released: `quarantine/ssss--bb--dd.f`.
pub fn quarantine(address: PciAddress) -> String {
    format!("{QUARANTINE}/{}", address.path_name())
}
