//! The `mappings` node: what lies where. It names physical addresses, so it is for root alone.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dma_types::Iova;
use iommu_engine::domain::{Domain, DomainKey, Mapping, Owner};
use iommu_engine::platform::Platform;
use serde::Serialize;

use super::Row;
use crate::memory::peer_bars::{PeerBarId, Registers};
use crate::service::Service;
use crate::sessions::session::BufferId;

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
    /// Which registers they are, where it is another device's.
    registers: Option<String>,
    /// The buffers of the same memory.
    shared_with: Vec<SharedWith>,
}

/// A buffer of memory that another is of too.
#[derive(Serialize)]
struct SharedWith {
    buffer: u64,
    /// The device of its session.
    device: String,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<MappingRow> {
    let mut rows = Vec::new();
    for (key, domain) in service.engine.domains() {
        for (iova, mapping) in domain.mappings() {
            rows.push(row(service, key, domain, iova, &mapping));
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
    let peer_bar = buffer.and_then(|id| service.peer_bars.get(&PeerBarId(id)));
    let label = match (buffer, known) {
        (None, _) if mapping.owner == Owner::Identity => "(all memory)".to_string(),
        (None, _) => "(firmware)".to_string(),
        (Some(_), Some(buffer)) => buffer.label.to_string(),
        (Some(_), None) => peer_bar.map_or_else(String::new, |peer_bar| peer_bar.label.to_string()),
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
        registers: peer_bar.map(|peer_bar| {
            let Registers { device, bar, offset, .. } = peer_bar.registers;
            format!("registers of {device}: BAR {bar}, from {offset:#x} on")
        }),
        shared_with: shared_with(service, buffer.map(BufferId)),
    }
}

fn shared_with<P: Platform>(service: &Service<P>, id: Option<BufferId>) -> Vec<SharedWith> {
    let buffers = &service.sessions.buffers;
    let run = id.and_then(|id| buffers.get(&id)).map(|buffer| buffer.run);
    // Most memory is of one buffer, so that not all need be looked through for each.
    let Some(run) = run.filter(|run| service.runs.buffers(*run) > 1) else { return Vec::new() };
    let others = buffers.iter().filter(|(other, it)| it.run == run && Some(**other) != id);
    others.map(|(id, it)| SharedWith { buffer: id.0, device: it.device.to_string() }).collect()
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

    fn notes(&self) -> Vec<String> {
        let note = |SharedWith { buffer, device }: &SharedWith| {
            format!("the same memory as buffer {buffer} of {device}")
        };
        self.registers.iter().cloned().chain(self.shared_with.iter().map(note)).collect()
    }
}
