//! The `faults` node: the latest blocked accesses.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::fault::Tried;
use iommu_engine::platform::Platform;
use serde::Serialize;

use super::Row;
use super::ago::Ago;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct FaultRow {
    number: u64,
    /// When the first of them was, in seconds since iommud's start.
    seconds: f64,
    #[serde(skip)]
    ago: Ago,
    unit: u16,
    /// The device, unless no device made the trouble.
    device: Option<String>,
    /// `read`, `write`, `access`, `atomic`, `page`, `interrupt`, `translation` or `internal`.
    tried: &'static str,
    address: String,
    /// The unit's own number for the reason.
    code: String,
    reason: String,
    /// How many times in a row.
    times: u64,
    /// How many other accesses of the device were blocked so far of which nothing is kept, because it made too many.
    dropped: u64,
    /// If it is in quarantine: why, and since when.
    quarantine: Option<String>,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<FaultRow> {
    let now = service.platform.now();
    let entries = service.faults.entries().map(|entry| FaultRow {
        number: entry.number,
        seconds: entry.at.as_nanos() as f64 / 1e9,
        ago: Ago(now.since(entry.at)),
        unit: entry.unit.0,
        device: entry.fault.device_in(entry.segment).map(|device| device.to_string()),
        tried: match entry.fault.tried {
            Tried::Read => "read",
            Tried::Write => "write",
            Tried::Access => "access",
            Tried::Atomic => "atomic",
            Tried::Page => "page",
            Tried::Interrupt => "interrupt",
            Tried::Translation => "translation",
            Tried::Internal => "internal",
        },
        address: entry.fault.address.to_string(),
        code: entry.fault.code.to_string(),
        reason: entry.fault.detail.to_string(),
        times: entry.times,
        dropped: 0,
        quarantine: None,
    });
    let mut rows: Vec<_> = entries.collect();
    // With the last of each device, what there is to be said of it all.
    let mut said = BTreeSet::new();
    for (row, entry) in rows.iter_mut().zip(service.faults.entries()).rev() {
        let requester = (entry.segment, entry.fault.device);
        if said.insert(requester) {
            row.dropped = service.storms.of(requester).map_or(0, |tally| tally.dropped);
            let device = entry.fault.device_in(entry.segment);
            let why = device.and_then(|device| service.quarantine_of(device));
            row.quarantine = why.map(|why| why.why(now));
        }
    }
    rows
}

impl Row for FaultRow {
    const COLUMNS: &'static [&'static str] =
        &["FAULT ", "AGO ", "UNIT ", "DEVICE", "TRIED", "ADDRESS ", "TIMES ", "REASON"];
    const NONE: &'static str = "no access was blocked";

    fn cells(&self) -> Vec<String> {
        alloc::vec![
            self.number.to_string(),
            self.ago.to_string(),
            self.unit.to_string(),
            self.device.clone().unwrap_or_else(|| "-".into()),
            self.tried.to_string(),
            self.address.clone(),
            self.times.to_string(),
            format!("{} ({})", self.reason, self.code),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let dropped = (self.dropped > 0).then(|| {
            format!("{} others of this device are not shown: it made too many", self.dropped)
        });
        dropped.into_iter().chain(self.quarantine.clone()).collect()
    }
}
