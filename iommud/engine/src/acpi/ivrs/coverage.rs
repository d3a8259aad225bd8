//! Which unit a device is behind, its alias, and which memory is reserved for it.

use core::ops::RangeInclusive;

use dma_types::{PciAddress, SourceId};

use super::entry::{DeviceEntry, EntryKind};
use super::memory::Ivmd;
use super::settings::DteSettings;
use super::table::{Ivrs, Refusal};
use super::unit::Ivhd;
use crate::acpi::Coverage;

impl Ivrs {
    /// Which unit translates for a device.
    ///
    /// A table should name each device once. Where it does not, the unit whose entry names the fewest devices
    /// comes first, and one that is for all devices last; of several alike, the first that can be used counts.
    /// A refused unit covers its devices like any other, so that they are not taken for another's. A unit does
    /// not translate for itself, whatever the table says.
    ///
    /// A virtual function is behind the unit of its physical function, which is the one to ask for, if the
    /// table does not name it.
    pub fn covering(&self, device: PciAddress) -> Coverage {
        self.closest(device).map_or(Coverage::Nobody, |(coverage, _)| coverage)
    }

    /// The source-id that a device's requests carry, by the table, if it is not its own.
    pub fn alias_of(&self, device: PciAddress) -> Option<SourceId> {
        let (_, unit) = self.closest(device)?;
        unit.alias_of(device.source())
    }

    /// The memory that is reserved for a device, under its own source-id or that of its alias.
    pub fn reserved_for(&self, device: PciAddress) -> impl Iterator<Item = &Ivmd> {
        let alias = self.alias_of(device);
        let alias = alias.map(|alias| PciAddress::from_source(device.segment(), alias));
        self.memory.iter().filter(move |memory| {
            memory.is_for(device) || alias.is_some_and(|alias| memory.is_for(alias))
        })
    }

    fn closest(&self, device: PciAddress) -> Option<(Coverage, &Ivhd)> {
        let units = self.units.iter().enumerate();
        let units = units.map(|(index, unit)| (Coverage::Unit(index), unit));
        let refused = self.refused.iter().enumerate();
        let refused = refused.filter_map(|(index, refused)| match &refused.refusal {
            Refusal::Unit(unit, _) => Some((Coverage::Refused(index), unit)),
            Refusal::Memory(..) | Refusal::Entry(_) => None,
        });
        let all = units.chain(refused);
        if all.clone().any(|(_, unit)| unit.address() == device) {
            return None;
        }
        all.filter_map(|(coverage, unit)| Some((unit.fit(device)?, coverage, unit)))
            .min_by_key(|(fit, ..)| *fit)
            .map(|(_, coverage, unit)| (coverage, unit))
    }
}

impl Ivhd {
    /// The source-id that requests of this device of the unit carry, if it is not its own.
    pub fn alias_of(&self, source: SourceId) -> Option<SourceId> {
        let alias = self.last_naming(source)?.alias?;
        (alias != source).then_some(alias)
    }

    /// What firmware asks to be set in device table entries. Of several settings for a source-id, the last holds.
    ///
    /// That is what the last entry says that names the source-id, that of a device which is no PCI function
    /// included; else what the last says that has it for an alias.
    pub fn settings(&self) -> impl Iterator<Item = (RangeInclusive<SourceId>, DteSettings)> {
        let entries = || self.entries.iter();
        let aliases =
            entries().filter_map(|entry| Some((entry.alias?..=entry.alias?, entry.settings)));
        aliases.chain(entries().map(|entry| (entry.first..=entry.last, entry.settings)))
    }

    /// The last entry that names this source of DMA.
    fn last_naming(&self, source: SourceId) -> Option<&DeviceEntry> {
        self.entries.iter().rfind(|entry| entry.sends_dma() && entry.names(source))
    }

    /// How many devices the closest entry names that names this one, or has it for an alias.
    fn fit(&self, device: PciAddress) -> Option<u32> {
        if self.segment != device.segment() {
            return None;
        }
        self.entries.iter().filter_map(|entry| entry.fit(device.source())).min()
    }
}

impl DeviceEntry {
    /// Whether its devices send DMA.
    fn sends_dma(&self) -> bool {
        match self.kind {
            EntryKind::All | EntryKind::Functions | EntryKind::Named(_) => true,
            EntryKind::Special { .. } => false,
        }
    }

    fn fit(&self, source: SourceId) -> Option<u32> {
        (self.sends_dma() && (self.names(source) || self.alias == Some(source)))
            .then(|| self.count())
    }
}

#[cfg(test)]
#[path = "tests/coverage.rs"]
mod tests;
