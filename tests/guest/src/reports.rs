//! What `iommuctl --json` says.

pub(crate) use agent::reports::{
    Device, Fault, Group, Mapping, Unit, device, domains, mapping, mappings, rows, setting, units,
};

use crate::failure::Outcome;
use crate::unit as hardware;

/// Waits until `faults` names a blocked access: by whom, for what (`read` or `write`), and to which page.
///
/// Where the unit [does not tell](hardware::Unit::tells_what_it_blocks), no other device may be named.
pub(crate) fn wait_for_fault(device: &str, tried: &str, page: u64) -> Outcome {
    let tells = hardware::Unit::find()?.tells_what_it_blocks();
    agent::reports::wait_for_fault(tells, device, tried, page)
}
