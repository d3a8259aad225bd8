//! The firmware's tables, as far as finding them goes (ACPI specification 6.5, sections 5.2.5 to 5.2.9).

use alloc::vec::Vec;

use dma_types::PhysAddr;
use iommu_engine::platform::PlatformError;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The longest table that is read, in bytes.
const MAX_TABLE_BYTES: usize = 1 << 20;

/// Where the tables begin.
#[derive(Clone, Copy, Debug)]
pub struct Acpi {
    rsdp: PhysAddr,
}

/// The root pointer (section 5.2.5.3), the part that version 1 has.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Rsdp {
    signature: [u8; 8],
    checksum: u8,
    oem: [u8; 6],
    revision: u8,
    rsdt: U32,
}

/// The root pointer from version 2 on.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExtendedRsdp {
    rsdp: Rsdp,
    length: U32,
    xsdt: U64,
    checksum: u8,
    reserved: [u8; 3],
}

/// What every table starts with (section 5.2.6).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem: [u8; 6],
    oem_table: [u8; 8],
    oem_revision: U32,
    creator: [u8; 4],
    creator_revision: U32,
}

/// The offset in the FADT ("FACP", section 5.2.9) of PM_TMR_BLK, the timer's port.
const FADT_TIMER: usize = 76;

impl Acpi {
    /// The tables that this root pointer leads to. Zero is none.
    pub fn new(rsdp: PhysAddr) -> Self {
        Self { rsdp }
    }

    /// The first table with this signature, whole, read through `memory`, which gives a copy of so many
    /// bytes at an address or `None` where nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`PlatformError::Acpi`] when the way to it is broken; what a table says is not checked.
    pub fn table(
        self,
        signature: [u8; 4],
        memory: impl Fn(PhysAddr, usize) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, PlatformError> {
        let whole = |address| whole(address, &memory);
        for address in self.addresses(&memory).ok_or(PlatformError::Acpi)? {
            let header = memory(address, size_of::<Header>()).ok_or(PlatformError::Acpi)?;
            if header.starts_with(&signature) {
                return whole(address).map(Some).ok_or(PlatformError::Acpi);
            }
        }
        Ok(None)
    }

    /// The port of the power-management timer.
    pub fn power_management_timer(
        self,
        memory: impl Fn(PhysAddr, usize) -> Option<Vec<u8>>,
    ) -> Option<u16> {
        let fadt = self.table(*b"FACP", memory).ok()??;
        let (port, _) = U32::read_from_prefix(fadt.get(FADT_TIMER..)?).ok()?;
        u16::try_from(port.get()).ok().filter(|port| *port != 0)
    }

    /// Where the tables are, from the root pointer and the root table; `None` when either is broken.
    fn addresses(
        self,
        memory: &impl Fn(PhysAddr, usize) -> Option<Vec<u8>>,
    ) -> Option<Vec<PhysAddr>> {
        let bytes = memory(self.rsdp, size_of::<Rsdp>())?;
        let rsdp = Rsdp::read_from_bytes(&bytes).ok()?;
        if rsdp.signature != *b"RSD PTR " || sum(&bytes) != 0 {
            return None;
        }
        let (root, signature, pointer_bytes) = if rsdp.revision < 2 {
            (u64::from(rsdp.rsdt.get()), b"RSDT", 4)
        } else {
            let bytes = memory(self.rsdp, size_of::<ExtendedRsdp>())?;
            if sum(&bytes) != 0 {
                return None;
            }
            (ExtendedRsdp::read_from_bytes(&bytes).ok()?.xsdt.get(), b"XSDT", 8)
        };
        let table = whole(PhysAddr::new(root), memory)?;
        if !table.starts_with(signature) || sum(&table) != 0 {
            return None;
        }
        let pointers = table.get(size_of::<Header>()..)?.chunks_exact(pointer_bytes);
        let address = |pointer: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..pointer_bytes].copy_from_slice(pointer);
            PhysAddr::new(u64::from_le_bytes(bytes))
        };
        Some(pointers.map(address).collect())
    }
}

/// All of the table at this address.
fn whole(
    address: PhysAddr,
    memory: &impl Fn(PhysAddr, usize) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let header = Header::read_from_bytes(&memory(address, size_of::<Header>())?).ok()?;
    let length = header.length.get() as usize;
    let sane = (size_of::<Header>()..=MAX_TABLE_BYTES).contains(&length);
    if sane { memory(address, length) } else { None }
}

/// The sum that a table's checksum makes zero.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// A table of this signature, its checksum right.
    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(signature);
        bytes[4] = 36 + body.len() as u8;
        bytes.extend(body);
        bytes[9] = 0u8.wrapping_sub(sum(&bytes));
        bytes
    }

    /// A machine: the root pointer at 0x20, the root table at 0x100, two tables at 0x200 and 0x300.
    fn machine(revision: u8) -> Vec<u8> {
        let mut memory = vec![0; 0x400];
        let mut place =
            |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        let mut rsdp = b"RSD PTR \0oooooo".to_vec();
        rsdp.extend([revision, 0, 1, 0, 0]);
        rsdp[8] = 0u8.wrapping_sub(sum(&rsdp));
        if revision == 0 {
            place(0x100, &table(b"RSDT", &[0, 2, 0, 0, 0, 3, 0, 0]));
        } else {
            rsdp.extend([36, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            rsdp[32] = 0u8.wrapping_sub(sum(&rsdp));
            place(0x100, &table(b"XSDT", &[0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]));
        }
        place(0x20, &rsdp);
        let mut fadt = [0; 0x60];
        fadt[FADT_TIMER - 36..][..4].copy_from_slice(&[0x08, 0x06, 0, 0]);
        place(0x200, &table(b"FACP", &fadt));
        place(0x300, &table(b"DMAR", &[1, 2, 3]));
        memory
    }

    fn find(machine: &[u8], signature: &[u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        Acpi::new(PhysAddr::new(0x20)).table(*signature, |at, count| reader(machine, at, count))
    }

    fn reader(machine: &[u8], at: PhysAddr, count: usize) -> Option<Vec<u8>> {
        let at = at.get() as usize;
        Some(machine.get(at..at.checked_add(count)?)?.to_vec())
    }

    #[test]
    fn tables_are_found_through_either_root_table() {
        for revision in [0, 2] {
            let machine = machine(revision);
            assert_eq!(find(&machine, b"DMAR"), Ok(Some(table(b"DMAR", &[1, 2, 3]))));
            assert_eq!(find(&machine, b"IVRS"), Ok(None));
            let acpi = Acpi::new(PhysAddr::new(0x20));
            let timer = acpi.power_management_timer(|at, count| reader(&machine, at, count));
            assert_eq!(timer, Some(0x608));
        }
    }

    #[test]
    fn r5_a_broken_way_to_the_tables_is_an_error_and_not_an_absent_table() {
        // A letter and the sum of the root pointer, of the root table; the root table's place and length.
        for at in [0x20, 0x28, 0x100, 0x109, 0x31, 0x104] {
            for revision in [0, 2] {
                let mut machine = machine(revision);
                machine[at] ^= 0x7f;
                assert_eq!(find(&machine, b"IVRS"), Err(PlatformError::Acpi), "byte {at:#x}");
            }
        }
        // A table that is longer than the machine.
        let mut machine = machine(0);
        machine[0x305] = 0xff;
        assert_eq!(find(&machine, b"DMAR"), Err(PlatformError::Acpi));
    }
}
