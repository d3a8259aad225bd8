//! What this machine says of itself.

use std::io;
#[cfg(target_os = "linux")]
use std::path::Path;

use iommu_engine::platform::PlatformError;

use super::dump::Dump;
#[cfg(target_os = "linux")]
use super::dump::WHOLE;
#[cfg(target_os = "linux")]
use crate::platform::linux::acpi::read_table;
#[cfg(target_os = "redox")]
use crate::platform::redox::acpi::read_table;

/// Where Linux has the functions, each a folder named by its address.
#[cfg(target_os = "linux")]
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// The first table with this signature, if there is one.
///
/// # Errors
///
/// [`PlatformError::Acpi`], where tables cannot be read: they are root's.
pub fn table(signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
    read_table(signature)
}

/// The PCI functions.
///
/// # Errors
///
/// Whatever keeps the system from telling.
#[cfg(target_os = "linux")]
pub fn functions() -> io::Result<Dump> {
    functions_in(Path::new(FUNCTIONS))
}

#[cfg(target_os = "linux")]
fn functions_in(folder: &Path) -> io::Result<Dump> {
    use std::fs::{self, File};
    use std::io::Read;

    let mut dump = Dump::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else {
            // Linux numbers segments of its own making from 10000 on; firmware knows none of them.
            dump.beyond_segments += 1;
            continue;
        };
        let mut bytes = Vec::new();
        File::open(entry.path().join("config"))?.take(WHOLE as u64).read_to_end(&mut bytes)?;
        dump.insert(address, bytes);
    }
    Ok(dump)
}

/// The PCI functions.
///
/// # Errors
///
/// Whatever keeps the system from telling.
#[cfg(target_os = "redox")]
pub fn functions() -> io::Result<Dump> {
    use std::collections::{BTreeMap, BTreeSet};
    use std::rc::Rc;

    use iommu_engine::pci;
    use iommu_engine::platform::ConfigSpace;

    use super::dump::{CONVENTIONAL, WHOLE};
    use crate::platform::redox::MemoryObject;
    use crate::platform::redox::config_space::MappedConfigSpace;
    use crate::platform::redox::mcfg::bus_ranges;
    use crate::platform::redox::memory::Memory;
    use crate::platform::redox::registers::RegisterWindows;

    struct Mapped {
        registers: RegisterWindows,
        config: MappedConfigSpace,
    }

    impl ConfigSpace for Mapped {
        fn config_read(&mut self, function: dma_types::PciAddress, offset: u16) -> u32 {
            use iommu_engine::platform::Registers;

            match self.config.dword(&mut self.registers, function, offset) {
                Some((window, at)) => self.registers.read32(window, at),
                None => u32::MAX,
            }
        }

        fn config_write(&mut self, _: dma_types::PciAddress, _: u16, _: u32) {}
    }

    let memory = MemoryObject::create()
        .and_then(Memory::open)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    let mut mapped = Mapped {
        registers: RegisterWindows::new(Rc::new(memory)),
        config: MappedConfigSpace::find().map_err(io::Error::other)?,
    };
    let mut roots: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
    for range in bus_ranges(&read_table(*b"MCFG").map_err(io::Error::other)?.unwrap_or_default()) {
        roots.entry(range.segment).or_default().extend(range.first_bus..=range.last_bus);
    }
    let mut dump = Dump::default();
    for (segment, buses) in roots {
        for (address, function) in pci::scan(&mut mapped, segment, buses) {
            let bytes = if function.express.is_some() { WHOLE } else { CONVENTIONAL } as u16;
            let dwords = (0..bytes).step_by(4).map(|offset| mapped.config_read(address, offset));
            dump.insert(address, dwords.flat_map(u32::to_le_bytes).collect());
        }
    }
    Ok(dump)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::{env, fs, process};

    #[test]
    fn functions_are_what_sysfs_has_of_them() {
        let folder = env::temp_dir().join(format!("iommuctl-pci-{}", process::id()));
        for (name, bytes) in
            [("0000:00:02.0", &[0x34, 0x12, 0xe8, 0x11][..]), ("10000:e0:1d.0", &[0; 4])]
        {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("config"), bytes).unwrap();
        }
        let dump = functions_in(&folder).unwrap();
        assert_eq!(dump.beyond_segments, 1);
        assert!(dump.text().starts_with("0000:00:02.0 1234:11e8\n00: 34 12 e8 11\n"));
        assert!(functions_in(&folder.join("nowhere")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
