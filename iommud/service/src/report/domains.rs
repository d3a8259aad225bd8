//! The `domains` node: the I/O address spaces.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::platform::Platform;
use iommu_engine::unit::Walks;
use serde::Serialize;

use super::Row;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct DomainRow {
    domain: u64,
    format: &'static str,
    levels: u8,
    address_bits: u8,
    mappings: usize,
    mapped_bytes: u64,
    /// The devices that are attached.
    devices: Vec<String>,
    /// Its ids at the units, as `unit:id`.
    ids: Vec<String>,
    /// For one that a client has made, what its client calls it.
    label: Option<String>,
    /// The device whose session it belongs to then.
    made_by: Option<String>,
    /// The addresses in which it maps, from the first to the last.
    aperture: Option<String>,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<DomainRow> {
    let engine = &service.engine;
    let domains = engine.domains().map(|(key, domain)| {
        let explicit = service.domains.get(&key);
        let maker = explicit.and_then(|it| service.sessions.sessions.get(&it.session));
        let attached = engine.groups().iter().filter(|group| group.attached == Some(key));
        DomainRow {
            domain: key.0,
            format: match domain.abilities().walks {
                Walks::SecondStage => "VT-d second stage",
                Walks::AmdV1 => "AMD-Vi v1",
                Walks::Nothing => "none: NOT CONFINED",
            },
            levels: domain.levels(),
            address_bits: domain.abilities().address_bits,
            mappings: domain.mappings().count(),
            mapped_bytes: domain.mapped_bytes(),
            devices: attached.flat_map(|group| group.members()).map(ToString::to_string).collect(),
            ids: domain
                .memberships()
                .map(|(unit, id)| format!("{}:{}", unit.0, id.get()))
                .collect(),
            label: explicit.map(|explicit| explicit.label.clone()),
            made_by: maker.map(|session| session.device.to_string()),
            aperture: explicit.map(|_| domain.aperture().to_string()),
        }
    });
    domains.collect()
}

impl Row for DomainRow {
    const COLUMNS: &'static [&'static str] =
        &["DOMAIN ", "FORMAT", "LEVELS ", "BITS ", "MAPPINGS ", "BYTES ", "UNIT:ID", "DEVICES"];
    const NONE: &'static str = "no domains: what is confined reaches nothing";

    fn cells(&self) -> Vec<String> {
        alloc::vec![
            self.domain.to_string(),
            self.format.to_string(),
            self.levels.to_string(),
            self.address_bits.to_string(),
            self.mappings.to_string(),
            self.mapped_bytes.to_string(),
            self.ids.join(" "),
            self.devices.join(" "),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let (Some(aperture), Some(maker)) = (&self.aperture, &self.made_by) else {
            return Vec::new();
        };
        let label = self.label.as_deref().filter(|label| !label.is_empty());
        let label = label.map_or_else(String::new, |label| format!("{label}: "));
        alloc::vec![format!("{label}made by the driver of {maker}, maps in {aperture}")]
    }
}
