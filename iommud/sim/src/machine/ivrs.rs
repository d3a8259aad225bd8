//! The ACPI IVRS table: AMD 48882, chapter 5.

use dma_types::{PciAddress, SourceId};

use super::access::Machine;
use super::acpi::table;
use super::config::{AmdviUnitConfig, IvhdKind, ReservedRegion, UnitScope};
use super::units::Description;
use crate::memory::Memory;

/// Device entry types, 5.2.2.1.
mod entry {
    pub(super) const SELECT: u8 = 2;
    pub(super) const RANGE_START: u8 = 3;
    pub(super) const RANGE_END: u8 = 4;
    pub(super) const ALIAS: u8 = 0x42;
    pub(super) const SPECIAL: u8 = 0x48;
    pub(super) const ACPI_DEVICE: u8 = 0xf0;
}

/// IVMD block types, 5.2.3.
mod memory {
    pub(super) const ALL: u8 = 0x20;
    pub(super) const ONE: u8 = 0x21;
    pub(super) const RANGE: u8 = 0x22;
}

/// IVMD flags: mapped to itself (bit 0), readable (1) and writable (2).
const UNITY: u8 = 7;
/// IVMD flag bit 3: an exclusion range.
const EXCLUSION: u8 = 8;
/// IVHD flag bit 5: Control.Coherent is to be set.
const COHERENT: u8 = 1 << 5;
/// IVHD flag bit 4: IotlbSup.
const DEVICE_TLB: u8 = 1 << 4;
/// IVHD flag bit 6: PreFSup.
const PREFETCH: u8 = 1 << 6;
/// The settings of an I/O APIC's entry: LINT1, LINT0, NMI, ExtInt and INIT pass, and system management
/// messages are forwarded.
const IO_APIC_SETTINGS: u8 = 0xd7;
/// Variety of a special device: an I/O APIC.
const IO_APIC: u8 = 1;
/// UID format of an ACPI device: none.
const NO_UID: u8 = 0;

impl<M: Memory> Machine<M> {
    /// The IVRS table of this machine, if it has an AMD-Vi unit.
    pub fn ivrs_table(&self) -> Option<Vec<u8>> {
        let units: Vec<_> = self
            .units
            .iter()
            .enumerate()
            .filter_map(|(number, slot)| match &slot.description {
                Description::Amdvi(config) => Some((number, config)),
                Description::Vtd(_) => None,
            })
            .collect();
        let (_, first) = units.first()?;
        let width = u32::from(first.amdvi.host_address_bits & 0x7f);
        // There is one field for all units, so what it says is what all of them translate.
        let least = units.iter().map(|(_, unit)| unit.amdvi.device_address_bits).min()?;
        let reach = u32::from(least & 0x7f);
        // EFRSup, guest virtual addresses of 48 bits, PASize, VASize.
        let info = u32::from(first.amdvi.extended_features) | 2 << 5 | width << 8 | reach << 15;
        let mut body = info.to_le_bytes().to_vec();
        body.extend([0; 8]);
        for kind in [IvhdKind::Basic, IvhdKind::Extended, IvhdKind::Acpi] {
            for &(number, unit) in units.iter().filter(|(_, unit)| unit.blocks.contains(&kind)) {
                body.extend(self.hardware_block(kind, number, unit));
            }
        }
        for region in &self.reserved {
            body.extend(memory_blocks(region));
        }
        Some(table(*b"IVRS", 2, &body))
    }

    fn hardware_block(&self, kind: IvhdKind, number: usize, unit: &AmdviUnitConfig) -> Vec<u8> {
        let amdvi = &unit.amdvi;
        let flags = [(true, COHERENT), (amdvi.device_tlb, DEVICE_TLB), (amdvi.prefetch, PREFETCH)];
        let flags = flags.into_iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit);
        let mut fields = unit.function.source().get().to_le_bytes().to_vec();
        // Where the capability block is: always at 0x40.
        fields.extend(0x40u16.to_le_bytes());
        fields.extend(unit.base.to_le_bytes());
        fields.extend(unit.function.segment().to_le_bytes());
        fields.extend(u16::from(amdvi.msi_number & 31).to_le_bytes());
        if kind == IvhdKind::Basic {
            // HATS in bits 31:30, IASup in bit 5.
            let (depth, all) = (amdvi.features() >> 10 & 3, amdvi.features() >> 6 & 1);
            fields.extend(((depth << 30 | all << 5) as u32).to_le_bytes());
        } else {
            fields.extend([0; 4]);
            fields.extend(amdvi.features().to_le_bytes());
            fields.extend([0; 8]);
        }
        fields.extend(self.device_entries(number, unit));
        if let Some(source) = unit.io_apic {
            let [low, high] = source.get().to_le_bytes();
            fields.extend([entry::SPECIAL, 0, 0, IO_APIC_SETTINGS, 0, low, high, IO_APIC]);
        }
        if let (IvhdKind::Acpi, Some((hardware_id, source))) = (kind, unit.acpi_device) {
            let [low, high] = source.get().to_le_bytes();
            fields.extend([entry::ACPI_DEVICE, low, high, 0]);
            fields.extend(hardware_id);
            fields.extend([0; 8]);
            fields.extend([NO_UID, 0]);
        }
        block(kind as u8, flags, &fields)
    }

    /// The entries for a unit's scope, and for the devices in it that sign as another.
    fn device_entries(&self, number: usize, unit: &AmdviUnitConfig) -> Vec<u8> {
        let segment = unit.function.segment();
        let mut bytes = Vec::new();
        for (first, last) in self.ranges(unit) {
            bytes.extend(if first == last {
                four(entry::SELECT, first)
            } else {
                [four(entry::RANGE_START, first), four(entry::RANGE_END, last)].concat()
            });
        }
        let functions = self.functions.keys().filter(|function| function.segment() == segment);
        for &function in functions.filter(|function| self.unit_of(**function) == Some(number)) {
            let signed = self.requester(function);
            if signed != function.source() {
                bytes.extend(four(entry::ALIAS, function.source().get()));
                let [low, high] = signed.get().to_le_bytes();
                bytes.extend([0, low, high, 0]);
            }
        }
        bytes
    }

    /// The ranges of source-ids in a unit's scope, bounds included.
    fn ranges(&self, unit: &AmdviUnitConfig) -> Vec<(u16, u16)> {
        match &unit.scope {
            UnitScope::Devices(devices) => self.named(devices),
            UnitScope::IncludeAll => {
                let segment = unit.function.segment();
                let others = self.units.iter().map(|slot| slot.serves());
                let mut taken: Vec<_> = others
                    .filter(|(of, _)| *of == segment)
                    .filter_map(|(_, scope)| match scope {
                        UnitScope::Devices(devices) => Some(self.named(devices)),
                        UnitScope::IncludeAll => None,
                    })
                    .flatten()
                    .collect();
                taken.sort_unstable();
                let mut free = Vec::new();
                let mut next = 0u32;
                for (first, last) in taken {
                    if u32::from(first) > next {
                        free.push((next as u16, first - 1));
                    }
                    next = next.max(u32::from(last) + 1);
                }
                if next <= 0xffff {
                    free.push((next as u16, 0xffff));
                }
                free
            }
        }
    }

    /// The source-ids of functions, and of the buses behind those that are bridges.
    fn named(&self, devices: &[PciAddress]) -> Vec<(u16, u16)> {
        let mut ranges = Vec::new();
        for device in devices {
            let own = device.source().get();
            ranges.push((own, own));
            let buses = self.functions.get(device).and_then(|function| function.buses());
            ranges.extend(buses.map(|buses| {
                (u16::from(*buses.start()) << 8, u16::from(*buses.end()) << 8 | 0xff)
            }));
        }
        ranges
    }
}

/// A device entry of four bytes, with no settings.
fn four(kind: u8, source: u16) -> Vec<u8> {
    let [low, high] = source.to_le_bytes();
    vec![kind, low, high, 0]
}

/// A block: type, flags and length, then the fields.
fn block(kind: u8, flags: u8, fields: &[u8]) -> Vec<u8> {
    let length = (4 + fields.len()) as u16;
    [&[kind, flags][..], &length.to_le_bytes(), fields].concat()
}

/// The IVMD blocks for a region: one for all functions, one for a range of them, or one for each.
fn memory_blocks(region: &ReservedRegion) -> Vec<u8> {
    let flags = if region.exclusion { EXCLUSION } else { UNITY };
    let length = region.limit.wrapping_sub(region.base).wrapping_add(1);
    let of = |kind, first: SourceId, last: SourceId, segment: u16| {
        let mut fields = first.get().to_le_bytes().to_vec();
        fields.extend(last.get().to_le_bytes());
        fields.extend(segment.to_le_bytes());
        fields.extend([0; 6]);
        fields.extend(region.base.to_le_bytes());
        fields.extend(length.to_le_bytes());
        block(kind, flags, &fields)
    };
    let nobody = SourceId::new(0);
    match &region.devices[..] {
        [] => of(memory::ALL, nobody, nobody, 0),
        [first, .., last] if region.range => {
            of(memory::RANGE, first.source(), last.source(), first.segment())
        }
        devices => devices
            .iter()
            .flat_map(|device| of(memory::ONE, device.source(), nobody, device.segment()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amdvi::AmdviConfig;
    use crate::machine::MachineConfig;
    use crate::memory::HeapMemory;

    fn body(config: MachineConfig) -> Vec<u8> {
        let table = Machine::new(config, HeapMemory::default()).ivrs_table().unwrap();
        assert_eq!(&table[..4], b"IVRS");
        assert_eq!(table[4..8], (table.len() as u32).to_le_bytes());
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        // PASize 48, VASize 64, GVASize 2, EFRSup.
        assert_eq!(table[36..48], [0x41, 0x30, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        table[48..].to_vec()
    }

    #[test]
    fn the_default_machine_has_one_unit_in_two_blocks() {
        let entries = [&[3, 0, 0, 0, 4, 0xff, 0xff, 0][..], &[0x48, 0, 0, 0xd7, 0, 0xa0, 0, 1]];
        let basic = [
            &[0x10, 0x20, 40, 0, 2, 0, 0x40, 0, 0, 0, 0xd8, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0x20, 0, 0, 0x80],
        ];
        let extended = [
            &[0x11, 0x20, 56, 0, 2, 0, 0x40, 0, 0, 0, 0xd8, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0; 4],
            &[0x40, 8, 0, 0, 0, 0, 0, 0],
            &[0; 8],
        ];
        let expected = [&basic[..], &entries, &extended, &entries].concat().concat();
        assert_eq!(body(MachineConfig::with_amdvi(AmdviConfig::default())), expected);
        let vtd = Machine::new(MachineConfig::default(), HeapMemory::default());
        assert_eq!(vtd.ivrs_table(), None);
    }

    #[test]
    fn the_table_has_one_width_for_all_units_and_each_units_capability_its_own() {
        let mut config = MachineConfig::with_amdvi(AmdviConfig::default());
        let mut second = config.amdvi_units[0].clone();
        second.function = "0000:00:08.2".parse().unwrap();
        second.amdvi.device_address_bits = 40;
        config.amdvi_units.push(second);
        let units = config.amdvi_units.clone();
        let table = Machine::new(config, HeapMemory::default()).ivrs_table().unwrap();
        // PASize 48, VASize 40, GVASize 2, EFRSup.
        assert_eq!(table[36..40], [0x41, 0x30, 0x14, 0]);
        let widths = units.iter().map(|unit| unit.capability_block().device_address_bits);
        assert_eq!(widths.collect::<Vec<_>>(), [64, 40]);
    }

    #[test]
    fn scopes_are_ranges_and_aliases_are_told() {
        let mut config = MachineConfig::with_amdvi(AmdviConfig::default())
            .with_root_port()
            .with_pci_bridge()
            .with_quirky_function();
        let unit = &mut config.amdvi_units[0];
        unit.blocks = vec![IvhdKind::Acpi];
        unit.io_apic = None;
        unit.acpi_device = Some((*b"AMDI0020", SourceId::new(0xa5)));
        let mut second = unit.clone();
        second.base = 0xfed4_0000;
        second.function = "0000:00:08.2".parse().unwrap();
        second.acpi_device = None;
        let port = config.bridges[0].address;
        second.scope = UnitScope::Devices(vec![config.edus[0].address, port]);
        config.amdvi_units.push(second);
        let body = body(config);
        assert_eq!(body[..8], [0x40, 0x20, 134, 0, 2, 0, 0x40, 0]);
        let first = [
            // All but 00:02.0, 00:03.0 and bus 1.
            &[3, 0, 0, 0, 4, 0x0f, 0, 0][..],
            &[3, 0x11, 0, 0, 4, 0x17, 0, 0],
            &[3, 0x19, 0, 0, 4, 0xff, 0, 0],
            &[3, 0, 2, 0, 4, 0xff, 0xff, 0],
            &[0x42, 0x38, 0, 0, 0, 0x39, 0, 0],
            &[0x42, 0x08, 0x21, 0, 0, 0, 0x21, 0],
            &[0x42, 0x10, 0x21, 0, 0, 0, 0x21, 0],
            &[0x42, 0x18, 0x21, 0, 0, 0, 0x21, 0],
            &[0x42, 0x00, 0x22, 0, 0, 0, 0x21, 0],
            &[0xf0, 0xa5, 0, 0],
            b"AMDI0020",
            &[0; 10],
        ];
        assert_eq!(body[40..134], first.concat());
        let second = &body[134 + 8..];
        assert_eq!(second[..8], [0, 0, 0xd4, 0xfe, 0, 0, 0, 0]);
        assert_eq!(second[32..], [2, 0x10, 0, 0, 2, 0x18, 0, 0, 3, 0, 1, 0, 4, 0xff, 1, 0]);
    }

    #[test]
    fn memory_is_for_one_for_a_range_or_for_all_and_may_be_broken() {
        let functions: [PciAddress; 2] =
            ["0000:00:02.0", "0000:00:03.0"].map(|address| address.parse().unwrap());
        let mut config = MachineConfig::with_amdvi(AmdviConfig::default())
            .with_reserved(0x7d00_0000, 0x7d00_3fff, &functions[..1])
            .with_reserved(0x7d10_0000, 0x7d10_0fff, &functions)
            .with_reserved(0x7d20_0000, 0x7d10_0fff, &[]);
        config.amdvi_units[0].blocks.clear();
        config.reserved[1].range = true;
        config.reserved[1].exclusion = true;
        let expected = [
            &[0x21, 7, 32, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0x7d, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0],
            &[0x22, 8, 32, 0, 0x10, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0x10, 0x7d, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            &[0x20, 7, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0x20, 0x7d, 0, 0, 0, 0, 0, 0x10, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        assert_eq!(body(config), expected.concat());
    }
}
