//! The ACPI DMAR table: VT-d 3.1, chapter 8.

use dma_types::PciAddress;

use super::access::Machine;
use super::acpi::table;
use super::config::{UnitConfig, UnitScope};
use super::topology::{Functions, bridges};
use super::units::Description;
use crate::memory::Memory;

/// Remapping structure types, 8.2.
const DRHD: u16 = 0;
const RMRR: u16 = 1;
/// Device scope types, 8.3.1.
const ENDPOINT: u8 = 1;
const BRIDGE: u8 = 2;
/// DRHD flag bit 0: all functions of the segment that no other unit names.
const INCLUDE_PCI_ALL: u8 = 1;

impl<M: Memory> Machine<M> {
    /// The DMAR table of this machine.
    pub fn dmar_table(&self) -> Vec<u8> {
        let units = || {
            self.units.iter().filter_map(|slot| match &slot.description {
                Description::Vtd(config) => Some(config),
                Description::Amdvi(_) => None,
            })
        };
        let widths = units().map(|unit| unit.vtd.host_address_bits);
        let host_address_width = widths.max().unwrap_or(46);
        let remaps = units().any(|unit| unit.vtd.interrupt_remapping);
        let mut body = vec![host_address_width.saturating_sub(1), remaps.into()];
        body.extend([0; 10]);
        let is_rest = |unit: &&UnitConfig| matches!(unit.scope, UnitScope::IncludeAll);
        for unit in units().filter(|unit| !is_rest(unit)).chain(units().filter(is_rest)) {
            body.extend(hardware_unit(unit, &self.functions));
        }
        for region in &self.reserved {
            let segment = region.devices.first().map_or(0, |device| device.segment());
            let mut fields = vec![0, 0];
            fields.extend(segment.to_le_bytes());
            fields.extend(region.base.to_le_bytes());
            fields.extend(region.limit.to_le_bytes());
            fields.extend(scopes(&region.devices, &self.functions));
            body.extend(structure(RMRR, &fields));
        }
        table(*b"DMAR", 1, &body)
    }
}

fn hardware_unit(unit: &UnitConfig, functions: &Functions) -> Vec<u8> {
    let (flags, devices) = match &unit.scope {
        UnitScope::IncludeAll => (INCLUDE_PCI_ALL, &[][..]),
        UnitScope::Devices(devices) => (0, &devices[..]),
    };
    // The size of the register set is 2^N pages.
    let size = (unit.vtd.window_bytes() / 4096).next_power_of_two().trailing_zeros() as u8;
    let mut fields = vec![flags, size];
    fields.extend(unit.segment.to_le_bytes());
    fields.extend(unit.base.to_le_bytes());
    fields.extend(scopes(devices, functions));
    structure(DRHD, &fields)
}

/// A remapping structure: type and length, then the fields.
fn structure(kind: u16, fields: &[u8]) -> Vec<u8> {
    let length = (4 + fields.len()) as u16;
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), fields].concat()
}

/// Device scopes: each the path of device and function numbers from bus 0 to the function.
fn scopes(devices: &[PciAddress], functions: &Functions) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &device in devices {
        let bridge = functions.get(&device).is_some_and(|function| function.buses().is_some());
        let way: Vec<_> = bridges(functions, device).map(|(address, _)| address).collect();
        let start = way.first().unwrap_or(&device).bus();
        let kind = if bridge { BRIDGE } else { ENDPOINT };
        let length = 6 + 2 * (way.len() as u8 + 1);
        bytes.extend([kind, length, 0, 0, 0, start]);
        for step in way.into_iter().chain([device]) {
            bytes.extend([step.device(), step.function()]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MachineConfig;
    use crate::memory::HeapMemory;
    use crate::vtd::VtdConfig;

    fn table(config: MachineConfig) -> Vec<u8> {
        let table = Machine::new(config, HeapMemory::default()).dmar_table();
        assert_eq!(&table[..4], b"DMAR");
        assert_eq!(table[4..8], (table.len() as u32).to_le_bytes());
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(table[38..48], [0; 10]);
        table
    }

    #[test]
    fn the_default_machine_has_one_unit_for_everything() {
        let table = table(MachineConfig::default());
        assert_eq!(table[36..38], [45, 0]);
        assert_eq!(table[48..], [0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
    }

    #[test]
    fn scopes_have_types_and_paths_and_the_rest_comes_last() {
        let mut config = MachineConfig::default().with_root_port();
        let (edu, port) = (config.edus[0].address, config.bridges[0].address);
        let behind = config.edus[1].address;
        let mut unit = config.units[0].clone();
        unit.base = 0xfed9_1000;
        unit.scope = UnitScope::Devices(vec![edu, port]);
        unit.vtd = VtdConfig { fault_records: 256, ..VtdConfig::default() };
        config.units.push(unit);
        let table = table(config.with_reserved(0x7f00_0000, 0x7f00_1fff, &[behind]));
        let expected = [
            &[0, 0, 32, 0, 0, 1, 0, 0, 0, 0x10, 0xd9, 0xfe, 0, 0, 0, 0][..],
            &[1, 8, 0, 0, 0, 0, 2, 0],
            &[2, 8, 0, 0, 0, 0, 3, 0],
            &[0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0],
            &[1, 0, 34, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0x7f, 0, 0, 0, 0, 0xff, 0x1f, 0, 0x7f, 0, 0, 0, 0],
            &[1, 10, 0, 0, 0, 0, 3, 0, 0, 0],
        ];
        assert_eq!(table[48..], expected.concat());
    }
}
