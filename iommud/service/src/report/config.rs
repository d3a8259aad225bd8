//! The `config` node: what the daemon was told, what it found, and what was odd about it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::platform::Platform;
use libdma::quota::Size;
use serde::Serialize;

use super::Row;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct ConfigRow {
    name: String,
    value: String,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<ConfigRow> {
    let row = |name: &str, value: String| ConfigRow { name: name.to_string(), value };
    let mut rows: Vec<_> =
        service.settings.lines.iter().map(|(name, value)| row(name, value.clone())).collect();
    if !service.engine.has_iommu() {
        rows.insert(0, row("IOMMU", "NONE: devices are NOT CONFINED".into()));
    }
    let faults = &service.faults;
    rows.push(row("protocol version", libdma::protocol::VERSION.to_string()));
    rows.push(row("open handles", service.handles.len().to_string()));
    rows.push(row("pending requests", service.pending.len().to_string()));
    rows.push(row("orphaned sessions", service.orphans().to_string()));
    rows.push(row("awaiting invalidation", service.engine.retired().to_string()));
    for reserve in service.engine.reserves() {
        let owner = reserve.owner().map(|device| format!(" of {device}"));
        let [used, bytes, largest, retired] =
            [reserve.used(), reserve.bytes(), reserve.largest(), reserve.retired()].map(Size);
        let retired = match reserve.retired() {
            0 => String::new(),
            _ => format!(", {retired} not given out again"),
        };
        rows.push(row(
            &format!("contiguous reserve{}", owner.unwrap_or_default()),
            format!("{used} of {bytes} used, {largest} free in one piece{retired}"),
        ));
    }
    rows.push(row("blocked accesses", faults.total().to_string()));
    rows.push(row("fault interrupts", service.fault_interrupts.to_string()));
    rows.push(row("times faults were lost", faults.lost().to_string()));
    rows.extend(service.engine.remarks().iter().map(|remark| row("remark", remark.to_string())));
    rows
}

impl Row for ConfigRow {
    const COLUMNS: &'static [&'static str] = &["SETTING", "VALUE"];
    const NONE: &'static str = "nothing to say";

    fn cells(&self) -> Vec<String> {
        alloc::vec![self.name.clone(), self.value.clone()]
    }
}
