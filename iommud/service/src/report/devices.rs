//! The `devices` node: the PCI functions, which unit covers each and who holds it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::engine::Confinement;
use iommu_engine::platform::Platform;
use serde::Serialize;

use super::Row;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct DeviceRow {
    device: String,
    /// Vendor and device id: `1234:11e8`.
    id: String,
    /// Base class, subclass and interface.
    class: String,
    /// The unit that covers it, if one does.
    unit: Option<u16>,
    /// `free`, `held`, `orphan` (held by a driver that has not come back since iommud was restarted), `firmware` (it reaches
    /// what firmware reserves for it), `NOT CONFINED`, `UNKNOWN` (its unit has failed), `QUARANTINED` (it reaches nothing for
    /// what it did), or `IOMMU` (it is one itself).
    state: &'static str,
    /// Why, where it is not confined or nobody knows.
    why: Option<String>,
    /// If it is in quarantine: why, and since when.
    quarantine: Option<String>,
    domain: Option<u64>,
    /// Which session of it this is, while it is held.
    generation: Option<u64>,
    /// Who holds it.
    uid: Option<u32>,
    buffers: usize,
    /// How many of them are of memory that other buffers are of too.
    shared: usize,
    /// How many handles there are to it.
    handles: u32,
    /// How many accesses were blocked that carry what it signs with, and so may others behind its bridge.
    faults: u64,
    /// The memory that firmware reserves for it.
    reserved: Vec<String>,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<DeviceRow> {
    let row = |device: &iommu_engine::machine::Device| {
        let function = device.function;
        let session = service.sessions.of_device(function.address).map(|(_, session)| session);
        let domain = service.engine.group(function.address).and_then(|group| group.attached);
        let confinement = service.engine.confinement(function.address);
        let quarantine = service.quarantine_of(function.address);
        let state = match (confinement, session) {
            _ if function.is_iommu() => "IOMMU",
            (Confinement::Unknown, _) => "UNKNOWN",
            _ if quarantine.is_some() => "QUARANTINED",
            (Confinement::Confined, Some(session)) if session.is_orphan() => "orphan",
            (Confinement::Confined, Some(_)) => "held",
            (Confinement::Confined, None) if domain.is_some() => "firmware",
            (Confinement::Confined, None) => "free",
            _ => "NOT CONFINED",
        };
        let confined = confinement == Confinement::Confined || function.is_iommu();
        let of = |source| service.storms.of((function.address.segment(), Some(source)));
        let faults = device.requesters.iter().filter_map(|source| of(*source));
        let faults = faults.map(|tally| tally.total).sum();
        DeviceRow {
            device: function.address.to_string(),
            id: format!("{:04x}:{:04x}", function.vendor, function.device),
            class: format!("{:06x}", function.class),
            unit: device.unit.map(|unit| unit.0),
            state,
            why: (!confined).then(|| confinement.to_string()),
            quarantine: quarantine.map(|it| it.why(service.platform.now())),
            domain: domain.map(|domain| domain.0),
            generation: session.map(|session| session.generation),
            uid: session.map(|session| session.uid),
            buffers: session.map_or(0, |session| session.buffers.len()),
            shared: session.map_or(0, |session| service.shared_buffers(session)),
            handles: session.map_or(0, |session| session.handles),
            faults,
            reserved: device.reserved.iter().map(ToString::to_string).collect(),
        }
    };
    service.engine.devices().map(row).collect()
}

impl Row for DeviceRow {
    const COLUMNS: &'static [&'static str] = &[
        "DEVICE", "ID", "CLASS", "UNIT ", "STATE", "DOMAIN ", "SESSION ", "UID ", "BUFFERS ",
        "FAULTS ",
    ];
    const NONE: &'static str = "no PCI functions";

    fn cells(&self) -> Vec<String> {
        fn or_dash(value: Option<impl ToString>) -> String {
            value.map_or_else(|| "-".to_string(), |value| value.to_string())
        }
        alloc::vec![
            self.device.clone(),
            self.id.clone(),
            self.class.clone(),
            or_dash(self.unit),
            self.state.to_string(),
            or_dash(self.domain),
            or_dash(self.generation),
            or_dash(self.uid),
            self.buffers.to_string(),
            self.faults.to_string(),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let reserved = self.reserved.iter().map(|range| format!("firmware reserves {range}"));
        self.why.iter().chain(&self.quarantine).cloned().chain(reserved).collect()
    }
}
