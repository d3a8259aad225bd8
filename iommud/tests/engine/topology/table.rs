//! Firmware's tables, to be made wrong.

use iommu_engine::platform::Platform;
use iommu_sim::MachineConfig;
use iommud::platform::sim::SimPlatform;

use crate::rig::Rig;

/// A table of a machine: the header of 48 bytes, and its parts.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    header: Vec<u8>,
    pub(crate) parts: Vec<Vec<u8>>,
}

impl Table {
    /// The table that is true of the machine.
    pub(crate) fn of(platform: &mut SimPlatform) -> Self {
        let dmar = platform.acpi_table(*b"DMAR").unwrap();
        let ivrs = platform.acpi_table(*b"IVRS").unwrap();
        let bytes = dmar.or(ivrs).unwrap();
        let mut parts = Vec::new();
        let mut at = 48;
        while at < bytes.len() {
            // In both tables the length is in bytes 2 and 3 of each part.
            let length = usize::from(u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]));
            parts.push(bytes[at..at + length].to_vec());
            at += length;
        }
        Self { header: bytes[..48].to_vec(), parts }
    }

    /// Where a part starts, in bytes from the start of the table.
    pub(crate) fn offset(&self, part: usize) -> usize {
        48 + self.parts[..part].iter().map(Vec::len).sum::<usize>()
    }

    /// The table as firmware has it in memory.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.header[..], &self.parts.concat()].concat();
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = 0;
        bytes[9] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        bytes
    }
}

impl Rig {
    /// A machine whose firmware says something else than is true, up and running.
    pub(crate) fn told(config: MachineConfig, change: impl FnOnce(&mut Table)) -> (Self, Table) {
        let mut platform = SimPlatform::with_manual_clock(config).unwrap();
        let mut table = Table::of(&mut platform);
        change(&mut table);
        platform.replace_table(table.bytes());
        let mut rig = Self::start_on(platform);
        rig.settle();
        (rig, table)
    }
}
