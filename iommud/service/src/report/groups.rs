//! The `groups` node: devices that can only be confined together, and why.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::engine::Confinement;
use iommu_engine::machine::Group;
use iommu_engine::platform::Platform;
use serde::Serialize;

use super::Row;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct GroupRow {
    group: usize,
    /// The unit that covers all of them, if one does.
    unit: Option<u16>,
    /// The domain that all of them are attached to.
    domain: Option<u64>,
    devices: Vec<String>,
    /// The source-ids that their requests carry.
    requesters: Vec<String>,
    /// The devices of it that are held.
    held: Vec<String>,
    /// Why they are one group.
    reasons: Vec<String>,
    /// Why they cannot be confined, if they cannot.
    refusal: Option<String>,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<GroupRow> {
    let groups = service.engine.groups().iter().enumerate();
    let row = |(index, group): (usize, &Group)| GroupRow {
        group: index,
        unit: group.unit.map(|unit| unit.0),
        domain: group.attached.map(|domain| domain.0),
        devices: group.members().iter().map(ToString::to_string).collect(),
        requesters: group
            .spec
            .requesters
            .iter()
            .map(|id| PciAddress::from_source(group.spec.segment, *id).to_string())
            .collect(),
        held: group.holders.iter().map(ToString::to_string).collect(),
        reasons: group.spec.reasons.iter().map(ToString::to_string).collect(),
        refusal: refusal(service, group),
    };
    groups.map(row).collect()
}

/// Why a group cannot be confined, if it cannot.
fn refusal<P: Platform>(service: &Service<P>, group: &Group) -> Option<String> {
    if let Some(fault) = group.refusal {
        return Some(fault.to_string());
    }
    let endpoint = group.members().iter().find(|member| {
        service.engine.device(**member).is_some_and(|device| !device.is_infrastructure())
    })?;
    match service.engine.confinement(*endpoint) {
        Confinement::Confined => None,
        Confinement::NoIommu => Some(format!("NOT CONFINED: {}", Confinement::NoIommu)),
        other => Some(format!("{endpoint}: {other}")),
    }
}

impl Row for GroupRow {
    const COLUMNS: &'static [&'static str] =
        &["GROUP ", "UNIT ", "DOMAIN ", "DEVICES", "REQUESTERS", "HELD"];
    const NONE: &'static str = "no PCI functions";

    fn cells(&self) -> Vec<String> {
        fn or_dash(value: Option<impl ToString>) -> String {
            value.map_or_else(|| "-".to_string(), |value| value.to_string())
        }
        alloc::vec![
            self.group.to_string(),
            or_dash(self.unit),
            or_dash(self.domain),
            self.devices.join(" "),
            self.requesters.join(" "),
            self.held.join(" "),
        ]
    }

    fn notes(&self) -> Vec<String> {
        self.reasons.iter().chain(&self.refusal).cloned().collect()
    }
}
