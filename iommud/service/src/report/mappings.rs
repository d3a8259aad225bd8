//! The `mappings` node: what lies where. It names physical addresses, so it is for root alone.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dma_types::Iova;
use iommu_engine::domain::{Domain, DomainKey, Mapping, Owner};
use iommu_engine::platform::Platform;
use serde::Serialize;

use super::Row;
use crate::service::Service;
use crate::session::BufferId;

#[derive(Serialize)]
pub(super) struct MappingRow {
    domain: u64,
    iova: String,
    bytes: u64,
    /// What devices may do, as the page table says: `r-`, `-w` or `rw`.
    access: String,
    /// Where the first byte is in memory, as the page table says.
    physical: String,
    /// How many pieces of physical memory it is made of.
    pieces: usize,
    /// The number of the client's buffer, if it is one.
    buffer: Option<u64>,
    /// What its client calls it, or that it is the firmware's, or the policy's.
    label: String,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<MappingRow> {
    let mut rows = Vec::new();
    for (key, domain) in service.engine.domains() {
        for (iova, mapping) in domain.mappings() {
            rows.push(row(service, key, domain, iova, mapping));
        }
    }
    rows
}

fn row<P: Platform>(
    service: &Service<P>,
    key: DomainKey,
    domain: &Domain,
    iova: Iova,
    mapping: &Mapping,
) -> MappingRow {
    // What hardware will find, and not what was asked for: the two should be the same.
    let found = domain.translate(&service.platform, iova);
    let buffer = mapping.owner.buffer();
    let known = buffer.and_then(|id| service.sessions.buffers.get(&BufferId(id)));
    let label = match (buffer, known) {
        (None, _) if mapping.owner == Owner::Identity => "(all memory)".to_string(),
        (None, _) => "(firmware)".to_string(),
        (Some(_), Some(buffer)) => buffer.label.clone(),
        (Some(_), None) => String::new(),
    };
    let pieces = known.map_or(1, |buffer| service.platform.segments(buffer.run).len());
    MappingRow {
        domain: key.0,
        iova: iova.to_string(),
        bytes: mapping.bytes,
        access: found.as_ref().map_or_else(String::new, |it| it.access.to_string()),
        physical: found.map_or_else(|| "-".to_string(), |it| it.phys.to_string()),
        pieces,
        buffer,
        label,
    }
}

impl Row for MappingRow {
    const COLUMNS: &'static [&'static str] =
        &["DOMAIN ", "IOVA ", "BYTES ", "ACCESS", "PHYSICAL ", "PIECES ", "BUFFER ", "LABEL"];
    const NONE: &'static str = "nothing is mapped";

    fn cells(&self) -> Vec<String> {
        alloc::vec![
            self.domain.to_string(),
            self.iova.clone(),
            self.bytes.to_string(),
            self.access.clone(),
            self.physical.clone(),
            self.pieces.to_string(),
            self.buffer.map_or_else(|| "-".to_string(), |id| id.to_string()),
            self.label.clone(),
        ]
    }
}
