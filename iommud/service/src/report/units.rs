//! The `units` node: the IOMMUs, what each can do and how it is.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::completion::UnitId;
use iommu_engine::machine::UnitSlot;
use iommu_engine::platform::Platform;
use iommu_engine::unit::{InvalidatesBy, Unit, UnitState};
use serde::Serialize;

use super::Row;
use crate::service::Service;

#[derive(Serialize)]
pub(super) struct UnitRow {
    unit: u16,
    kind: &'static str,
    segment: u16,
    registers: String,
    /// `starting`, `translating`, `failed` or `refused`.
    state: &'static str,
    /// Why, where it is not translating.
    reason: Option<String>,
    /// How many devices it covers.
    devices: usize,
    /// What it can do; absent where it was refused.
    abilities: Option<Abilities>,
}

#[derive(Serialize)]
struct Abilities {
    version: String,
    /// Depths of page tables that it walks.
    levels: Vec<u8>,
    address_bits: u8,
    /// Sizes of pages, in bytes.
    page_sizes: Vec<u64>,
    domain_ids: u32,
    domain_ids_in_use: u32,
    /// `queue` or `registers`.
    invalidation: &'static str,
    page_selective: bool,
    caching_mode: bool,
    /// Whether it snoops the processors' caches when it walks tables.
    coherent: bool,
    write_buffer_flush: bool,
    /// Without them, what a device may write it may also read.
    zero_length_reads: bool,
    fault_records: u32,
    /// How it is learnt that it has blocked something: by `interrupt`, or it is `polled`.
    faults: &'static str,
    /// Invalidations that it has not confirmed.
    open_invalidations: usize,
    /// Whether firmware or the boot loader had left translation on.
    found_translating: bool,
}

pub(super) fn rows<P: Platform>(service: &Service<P>) -> Vec<UnitRow> {
    let engine = &service.engine;
    let mut rows = Vec::new();
    for (index, slot) in engine.units().iter().enumerate() {
        let id = UnitId(index as u16);
        let devices = engine.devices().filter(|device| device.unit == Some(id)).count();
        rows.push(row(id, slot, devices));
    }
    rows
}

fn row(id: UnitId, slot: &UnitSlot, devices: usize) -> UnitRow {
    let (state, reason, abilities) = match &slot.unit {
        Err(unusable) => ("refused", Some(unusable.to_string()), None),
        Ok(unit) => {
            let (state, reason) = match unit.state() {
                UnitState::Starting(what) => ("starting", Some(format!("to {what}"))),
                UnitState::Running => ("translating", None),
                UnitState::Failed(failure) => ("failed", Some(failure.to_string())),
            };
            (state, reason, Some(abilities(unit)))
        }
    };
    UnitRow {
        unit: id.0,
        kind: slot.kind,
        segment: slot.segment,
        registers: slot.base.to_string(),
        state,
        reason,
        devices,
        abilities,
    }
}

fn abilities(unit: &Unit) -> Abilities {
    let (abilities, summary) = (unit.abilities(), unit.summary());
    Abilities {
        version: summary.version,
        levels: abilities.depths.iter().collect(),
        address_bits: abilities.address_bits,
        page_sizes: (0..64)
            .map(|bit| abilities.page_sizes & 1 << bit)
            .filter(|it| *it != 0)
            .collect(),
        domain_ids: summary.domain_ids,
        domain_ids_in_use: unit.domain_ids_in_use(),
        invalidation: match summary.invalidation {
            InvalidatesBy::Queue => "queue",
            InvalidatesBy::Registers => "registers",
        },
        page_selective: summary.page_selective,
        caching_mode: summary.caching_mode,
        coherent: abilities.coherent,
        write_buffer_flush: summary.write_buffer_flush,
        zero_length_reads: !abilities.write_needs_read,
        fault_records: summary.fault_records,
        faults: if unit.interrupts() { "interrupt" } else { "polled" },
        open_invalidations: unit.open_tickets(),
        found_translating: unit.found_translating(),
    }
}

impl Abilities {
    fn pages(&self) -> String {
        let orders: Vec<u32> = self.page_sizes.iter().map(|size| size.trailing_zeros()).collect();
        runs(&orders, page_name)
    }

    fn levels(&self) -> String {
        let levels: Vec<u32> = self.levels.iter().map(|levels| u32::from(*levels)).collect();
        runs(&levels, |levels| levels.to_string())
    }
}

/// Numbers in words, each with its name, and three or more in a row as the first and the last: `1-6`.
fn runs(numbers: &[u32], name: impl Fn(u32) -> String) -> String {
    let mut words = Vec::new();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        match run {
            [first, _, .., last] if run.len() > 2 => {
                words.push(format!("{}-{}", name(*first), name(*last)));
            }
            few => words.extend(few.iter().map(|number| name(*number))),
        }
    }
    words.join(" ")
}

/// A page of two to the `order` bytes: `2M`.
fn page_name(order: u32) -> String {
    let (unit, letter) = match order {
        0..20 => (10, 'K'),
        20..30 => (20, 'M'),
        30..40 => (30, 'G'),
        _ => (40, 'T'),
    };
    format!("{}{letter}", 1u64 << order.saturating_sub(unit))
}

impl Row for UnitRow {
    const COLUMNS: &'static [&'static str] = &[
        "UNIT ",
        "KIND",
        "SEGMENT",
        "REGISTERS",
        "STATE",
        "DEVICES ",
        "LEVELS",
        "BITS ",
        "PAGES",
        "DOMAINS ",
        "INVALIDATION",
        "FAULTS",
    ];
    const NONE: &'static str = "no IOMMU: devices are NOT CONFINED";

    fn cells(&self) -> Vec<String> {
        let none = String::new;
        let abilities = self.abilities.as_ref();
        alloc::vec![
            self.unit.to_string(),
            self.kind.to_string(),
            format!("{:04x}", self.segment),
            self.registers.clone(),
            self.state.to_string(),
            self.devices.to_string(),
            abilities.map_or_else(none, Abilities::levels),
            abilities.map_or_else(none, |it| it.address_bits.to_string()),
            abilities.map_or_else(none, Abilities::pages),
            abilities.map_or_else(none, |it| format!("{}/{}", it.domain_ids_in_use, it.domain_ids)),
            abilities.map_or_else(none, |it| it.invalidation.to_string()),
            abilities.map_or_else(none, |it| it.faults.to_string()),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> =
            self.reason.iter().map(|reason| format!("{}: {reason}", self.state)).collect();
        if let Some(abilities) = &self.abilities {
            if !abilities.zero_length_reads {
                notes
                    .push("cannot map write-only: what a device may write it may also read".into());
            }
            if abilities.found_translating {
                notes.push("was translating already when iommud found it".into());
            }
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pages_are_named_and_rows_of_them_are_short() {
        assert_eq!(runs(&[12, 21, 30], page_name), "4K 2M 1G");
        let all: Vec<_> = (12..=38).collect();
        assert_eq!(runs(&all, page_name), "4K-256G");
        assert_eq!(runs(&[12, 13, 39, 40], page_name), "4K 8K 512G 1T");
        assert_eq!(runs(&[3, 4], |number| number.to_string()), "3 4");
        assert_eq!(runs(&[], page_name), "");
    }
}
