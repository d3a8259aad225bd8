//! Two small machines: their tables byte by byte, and their PCI functions.

use crate::ctl::plan::dump::{CONVENTIONAL, Dump, WHOLE};

/// DMAR: a unit for the graphics device alone, one for all the rest, and memory for the graphics device.
pub(super) const DMAR: [u8; 152] = [
    b'D', b'M', b'A', b'R', 152, 0, 0, 0, 1, 0x19, b'I', b'O', b'M', b'M', b'U', b'D', //
    b'e', b'x', b'a', b'm', b'p', b'l', b'e', b' ', 1, 0, 0, 0, b'T', b'E', b'S', b'T', //
    1, 0, 0, 0, 0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 39 bits
    // 0x30, DRHD at fed90000: endpoint 00:02.0.
    0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0, 2, 0, //
    // 0x48, DRHD at fed91000: all the rest; I/O APIC 2 at f0:1f.0.
    0, 0, 24, 0, 1, 0, 0, 0, 0, 0x10, 0xd9, 0xfe, 0, 0, 0, 0, 3, 8, 0, 0, 2, 0xf0, 0x1f, 0, //
    // 0x60, RMRR from 7b800000 to 7fffffff: endpoint 00:02.0.
    1, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x7b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0,
    0, //
    1, 8, 0, 0, 0, 0, 2, 0, //
    // 0x80, ATSR for all root ports, which is passed over.
    2, 0, 24, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 2, 0, 1, 8, 0, 0, 0, 0, 3, 0,
];

/// IVRS: one unit, whose devices behind the bridge 00:14.4 sign as it does, and two reserved ranges, of which
/// the second cannot be.
pub(super) const IVRS: [u8; 188] = [
    b'I', b'V', b'R', b'S', 188, 0, 0, 0, 2, 0xe9, b'I', b'O', b'M', b'M', b'U', b'D', //
    b'e', b'x', b'a', b'm', b'p', b'l', b'e', b' ', 1, 0, 0, 0, b'T', b'E', b'S', b'T', //
    1, 0, 0, 0, 0x41, 0x30, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 48 bits
    // 0x30, IVHD of type 11h: the function 00:00.2, its capability at 40h, registers at feb80000.
    0x11, 0, 76, 0, 2, 0, 0x40, 0, 0, 0, 0xb8, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    // From 00:01.0 to ff:1f.6.
    3, 8, 0, 0, 4, 0xfe, 0xff, 0, //
    // From 03:00.0 to 03:1f.7, as 00:14.4.
    0x43, 0, 3, 0, 0, 0xa4, 0, 0, 4, 0xff, 3, 0, //
    // HPET 0 at 00:14.0, I/O APIC 33 likewise.
    0x48, 0, 0, 0, 0, 0xa0, 0, 2, 0x48, 0, 0, 0, 33, 0xa0, 0, 1, //
    // 0x7c, IVMD of type 21h: 1 MiB at 7a000000 for 00:14.0, mapped to itself.
    0x21, 0xff, 32, 0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7a, 0, 0, 0, 0, //
    0, 0, 0x10, 0, 0, 0, 0, 0, //
    // 0x9c, IVMD of type 20h: nothing at 7b000000 for all.
    0x20, 0x01, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0, 0, 0, 0, //
    0, 0, 0, 0, 0, 0, 0, 0,
];

/// Of what kind a function is, and what follows from it.
#[derive(Clone, Copy)]
enum Kind {
    /// Of conventional PCI.
    Conventional,
    /// Of PCI Express, with this Device/Port Type and no extended capabilities.
    Express(u8),
}

fn add(dump: &mut Dump, address: &str, id: u32, class: u32, header: u8, buses: u32, kind: Kind) {
    let mut bytes = vec![0; if let Kind::Conventional = kind { CONVENTIONAL } else { WHOLE }];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    // Vendor and device id; revision and class; header type; bus numbers.
    put(0x00, &id.rotate_left(16).to_le_bytes());
    put(0x08, &(class << 8).to_le_bytes());
    put(0x0e, &[header]);
    put(0x18, &buses.to_le_bytes());
    if let Kind::Express(port) = kind {
        // There is a list of capabilities, it starts at 40h, and the PCI Express capability is all of it.
        put(0x06, &[0x10, 0]);
        put(0x34, &[0x40]);
        put(0x40, &[0x10, 0, port << 4 | 2, 0]);
    }
    dump.insert(address.parse().unwrap(), bytes);
}

/// What goes with [`DMAR`].
pub(super) fn intel() -> Dump {
    let mut dump = Dump::default();
    let conventional = Kind::Conventional;
    add(&mut dump, "00:00.0", 0x8086_3e30, 0x06_0000, 0, 0, conventional);
    add(&mut dump, "00:02.0", 0x8086_3e98, 0x03_0000, 0, 0, Kind::Express(9));
    // A root port, and behind it a device of two functions.
    add(&mut dump, "00:1c.0", 0x8086_a338, 0x06_0400, 1, 0x0001_0100, Kind::Express(4));
    add(&mut dump, "01:00.0", 0x8086_1533, 0x02_0000, 0x80, 0, Kind::Express(0));
    add(&mut dump, "01:00.1", 0x8086_1533, 0x02_0000, 0x80, 0, Kind::Express(0));
    dump
}

/// The function that AMD's unit is.
pub(super) const UNIT: &str = "00:00.2";

/// Where it has its capability: a secure device's (0Fh), of an IOMMU (3), with registers at feb80000.
pub(super) const CAPABILITY: usize = 0x40;

/// Changes bytes of AMD's unit.
pub(super) fn edit(dump: &mut Dump, at: usize, part: &[u8]) {
    let unit = UNIT.parse().unwrap();
    let found = dump.functions().find(|(address, _)| *address == unit);
    let mut bytes = found.unwrap().1.to_vec();
    bytes[at..at + part.len()].copy_from_slice(part);
    dump.insert(unit, bytes);
}

/// What goes with [`IVRS`].
pub(super) fn amd() -> Dump {
    let mut dump = Dump::default();
    let conventional = Kind::Conventional;
    add(&mut dump, "00:00.0", 0x1022_1450, 0x06_0000, 0x80, 0, conventional);
    add(&mut dump, UNIT, 0x1022_1451, 0x08_0600, 0x80, 0, conventional);
    edit(&mut dump, CAPABILITY, &[0x0f, 0, 0x0b, 0x08, 1, 0, 0xb8, 0xfe]);
    add(&mut dump, "00:14.0", 0x1022_790b, 0x0c_0500, 0x80, 0, conventional);
    add(&mut dump, "00:14.4", 0x1002_4384, 0x06_0401, 0x81, 0x0003_0300, conventional);
    add(&mut dump, "03:05.0", 0x10ec_8139, 0x02_0000, 0, 0, conventional);
    add(&mut dump, "03:06.0", 0x10ec_8139, 0x02_0000, 0, 0, conventional);
    dump
}
