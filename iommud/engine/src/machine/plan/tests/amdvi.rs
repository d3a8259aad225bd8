use alloc::string::ToString;
use alloc::vec::Vec;

use super::{findings, group, reserved, unit};
use crate::acpi::Coverage;
use crate::acpi::ivrs::Ivrs;
use crate::machine::plan::{Firmware, Given, Plan};
use crate::topology::tests::machine::{Machine, ROOT_PORT};

/// A table with these blocks, for a machine whose addresses have 48 bits.
fn table(blocks: &[&[u8]]) -> Ivrs {
    let mut table = b"IVRS\0\0\0\0\x02\0OEM   TABLE   ".to_vec();
    table.extend([0; 12]);
    table.extend([0x40, 0x30, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    table.extend(blocks.iter().flat_map(|block| block.iter()));
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    Ivrs::parse(&table).unwrap()
}

/// An IVHD of type 10h: the unit that is this function of bus 0 with registers there, and its entries.
fn ivhd(function: u8, base: u32, entries: &[u8]) -> Vec<u8> {
    let mut block = Vec::from([0x10, 0, 24 + entries.len() as u8, 0, function, 0, 0x40, 0]);
    block.extend(u64::from(base).to_le_bytes());
    block.extend([0; 8]);
    block.extend(entries);
    block
}

/// An IVMD of type 22h: memory for all devices from one of bus 0 to another, with these flags.
fn ivmd(flags: u8, first: u8, last: u8, start: u32, bytes: u32) -> Vec<u8> {
    let mut block = Vec::from([0x22, flags, 32, 0, first, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    block.extend(u64::from(start).to_le_bytes());
    block.extend(u64::from(bytes).to_le_bytes());
    block
}

/// 00:01.0 to 00:1f.7, and 04:00.0 to 04:1f.7 as 00:14.4.
const ENTRIES: [u8; 20] = [
    0x03, 0x08, 0x00, 0, 0x04, 0xff, 0x00, 0, //
    0x43, 0x00, 0x04, 0, 0, 0xa4, 0x00, 0, 0x04, 0xff, 0x04, 0,
];

fn machine() -> Machine {
    let mut machine = Machine::default()
        .conventional("00:00.0")
        .conventional("00:00.2")
        .port("00:01.0", ROOT_PORT, 1, 1)
        .with_services(&["00:01.0"])
        .endpoint("01:00.0")
        .conventional("00:11.0")
        .bridge("00:14.4", 4, 4)
        .conventional("00:14.0")
        .conventional("04:05.0");
    machine.config.set("00:00.2", 8, 0x0806_0000);
    machine
}

fn plan(table: Ivrs, machine: &mut Machine) -> Plan {
    let firmware = Firmware::Amdvi(table);
    let functions = firmware.scan(&mut machine.config);
    Plan::new(firmware, &functions, &Given::default()).unwrap()
}

#[test]
fn devices_are_behind_the_unit_that_names_them_and_the_unit_behind_none() {
    let plan = plan(table(&[&ivhd(2, 0xfeb8_0000, &ENTRIES)]), &mut machine());
    assert_eq!(findings(&plan), [""; 0]);
    assert_eq!(unit(&plan, "00:11.0"), Some(0));
    assert_eq!(unit(&plan, "04:05.0"), Some(0));
    assert_eq!(unit(&plan, "00:00.2"), None);
    // What firmware does not name is behind none.
    assert_eq!(unit(&plan, "01:00.0"), None);
    let first = &plan.units()[0];
    assert_eq!(first.entry, Coverage::Unit(0));
    assert_eq!(first.function, Some("00:00.2".parse().unwrap()));
    assert_eq!(first.offset, 0x30);
    assert_eq!(first.scopes, ["00:01.0 to 00:1f.7", "04:00.0 to 04:1f.7 as 00:14.4"]);
}

#[test]
fn an_alias_of_firmware_is_a_requester_of_the_group() {
    let mut machine =
        Machine::default().conventional("00:14.0").conventional("00:15.0").conventional("00:16.0");
    // 00:15.0 as 00:14.0, 00:16.0.
    let entries = [0x42, 0xa8, 0, 0, 0, 0xa0, 0, 0, 0x02, 0xb0, 0, 0];
    let plan = plan(table(&[&ivhd(2, 0xfeb8_0000, &entries)]), &mut machine);
    assert_eq!(
        group(&plan, "00:15.0"),
        ("00:14.0 00:15.0".into(), "00:14.0 00:15.0".into(), Some(0))
    );
    assert_eq!(group(&plan, "00:16.0"), ("00:16.0".into(), "00:16.0".into(), Some(0)));
    let device = &plan.devices()[&"00:15.0".parse().unwrap()];
    let signs: Vec<_> = device.requesters.iter().map(ToString::to_string).collect();
    assert_eq!(signs, ["00:14.0", "00:15.0"]);
}

#[test]
fn the_bridge_of_a_southbridge_and_what_is_behind_it_sign_alike() {
    let plan = plan(table(&[&ivhd(2, 0xfeb8_0000, &ENTRIES)]), &mut machine());
    // 00:14.0 has no services either, and is of the bridge's device.
    assert_eq!(
        group(&plan, "04:05.0"),
        ("00:14.0 00:14.4 04:05.0".into(), "00:14.0 00:14.4 04:05.0".into(), Some(0))
    );
}

#[test]
fn reserved_memory_is_as_readable_and_writable_as_its_block_says() {
    let blocks = [
        ivhd(2, 0xfeb8_0000, &ENTRIES),
        // Unity, readable; unity, readable and writable; excluded; the registers; twice.
        ivmd(0x03, 0x88, 0x8f, 0x1000, 0x2000),
        ivmd(0x07, 0x80, 0x8f, 0x2000, 0x1000),
        ivmd(0x08, 0x88, 0x88, 0x8000, 0x1000),
        ivmd(0x07, 0x88, 0x88, 0xfeb8_3000, 0x1000),
        ivmd(0x07, 0x80, 0x8f, 0x2000, 0x1000),
    ];
    let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    let plan = plan(table(&blocks), &mut machine());
    assert_eq!(
        reserved(&plan, "00:11.0"),
        ["0x1000..=0x1fff r-", "0x2000..=0x2fff", "0x8000..=0x8fff"]
    );
    assert_eq!(reserved(&plan, "00:14.0"), [""; 0]);
    assert_eq!(
        findings(&plan),
        [
            "IVRS offset 0xbc: the memory 0xfeb83000..=0xfeb83fff is not reserved: the registers of the IOMMU at 0xfeb80000 are there",
            "IVRS offset 0xdc: the memory 0x2000..=0x2fff is reserved at offset 0x7c already",
        ]
    );
}
