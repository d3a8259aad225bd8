//! Machines with many units.

use dma_types::PciAddress;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::machine::{FunctionConfig, UnitScope};
use iommu_sim::pace::Health;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{HeapMemory, Machine, MachineConfig};

fn function(device: u8) -> PciAddress {
    PciAddress::new(0, 0, device, 0).unwrap()
}

#[test]
fn seventeen_units_each_have_their_device_and_the_last_has_the_rest() {
    let mut config = MachineConfig::default();
    for number in 0..16 {
        config.functions.push(FunctionConfig::conventional(function(8 + number)));
        let mut unit = config.units[0].clone();
        unit.base = 0xfec1_0000 + u64::from(number) * 0x1000;
        unit.scope = UnitScope::Devices(vec![function(8 + number)]);
        unit.vtd = VtdConfig {
            guest_address_bits: if number % 2 == 0 { 39 } else { 48 },
            levels: if number % 2 == 0 { vec![3] } else { vec![3, 4] },
            pages_1g: number % 3 == 0,
            coherent: number % 4 != 0,
            ..VtdConfig::default()
        };
        config.units.push(unit);
    }
    let mut machine = Machine::new(config, HeapMemory::default());
    let table = machine.dmar_table();
    // Sixteen structures with a scope of 8 bytes, and one without, last.
    assert_eq!(table.len(), 48 + 16 * 24 + 16);
    assert_eq!(table[table.len() - 16..][..5], [0, 0, 16, 0, 1]);
    for number in 0..16 {
        assert_eq!(machine.unit_of(function(8 + number)), Some(1 + usize::from(number)));
        let base = 0xfec1_0000 + u64::from(number) * 0x1000;
        let width = machine.mmio_read(base + 8, 8) >> 16 & 0x3f;
        assert_eq!(width, if number % 2 == 0 { 38 } else { 47 });
    }
    assert_eq!(machine.unit_of(function(2)), Some(0));
    assert!(machine.unit(16).is_some() && machine.unit(17).is_none() && machine.amdvi(0).is_none());
}

#[test]
fn each_segment_has_its_own_unit() {
    let mut config = MachineConfig::default();
    let mut other = config.units[0].clone();
    (other.base, other.segment) = (0xfed9_4000, 1);
    config.units.push(other);
    let far: PciAddress = "0001:00:02.0".parse().unwrap();
    config.functions.push(FunctionConfig::conventional(far));
    let machine = Machine::new(config, HeapMemory::default());
    assert_eq!((machine.unit_of(function(2)), machine.unit_of(far)), (Some(0), Some(1)));
    assert_eq!(machine.config_read("0001:00:00.0".parse().unwrap(), 0), 0x29c0_8086);
}

#[test]
fn several_amdvi_units_have_their_functions_and_windows() {
    let mut config = MachineConfig::with_amdvi(AmdviConfig::default()).with_root_port();
    let mut second = config.amdvi_units[0].clone();
    second.base = 0xfed4_0000;
    second.function = "0000:00:01.2".parse().unwrap();
    second.scope = UnitScope::Devices(vec![function(3)]);
    second.amdvi.table_depth = 0;
    config.amdvi_units.push(second);
    let mut machine = Machine::new(config, HeapMemory::default());
    assert_eq!(machine.mmio_read(0xfed8_0030, 8), 0x840);
    assert_eq!(machine.mmio_read(0xfed4_0030, 8), 0x40);
    let behind = "0000:01:00.0".parse().unwrap();
    assert_eq!((machine.unit_of(function(2)), machine.unit_of(behind)), (Some(0), Some(1)));
    assert!(machine.amdvi(1).is_some() && machine.unit(0).is_none());
    machine.mmio_write(0xfed4_0018, 8, 1);
    assert!(!machine.is_translating(0) && machine.is_translating(1));
    machine.set_health(1, Health::AllOnes);
    assert!(!machine.is_translating(1));
}
