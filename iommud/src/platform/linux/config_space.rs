//! PCI configuration space, as sysfs shows it: a file for each function.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dma_types::PciAddress;
use iommu_engine::pci;
use iommu_engine::platform::ConfigSpace;

/// Where the functions are, each a folder named by its address.
pub(super) const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// The dword with the class, in its upper three bytes, and what that is of a bridge and of an IOMMU (PCI Code and ID
/// Assignment 1.11, 1.7 and 1.9).
const CLASS: u16 = 0x08;
const BRIDGE: u32 = 0x06;
const IOMMU: u32 = 0x08_06;

/// Configuration space, with the files of the functions that were looked at.
#[derive(Debug)]
pub struct SysfsConfigSpace {
    folder: PathBuf,
    files: BTreeMap<PciAddress, File>,
}

impl SysfsConfigSpace {
    /// Nothing is opened yet.
    pub fn new() -> Self {
        Self::at(Path::new(FUNCTIONS))
    }

    fn at(folder: &Path) -> Self {
        Self { folder: folder.into(), files: BTreeMap::new() }
    }

    /// Stops every function from making requests of its own, if it was making any: how many were. Those that nobody has at
    /// work are left alone: bridges, which hand on what others request, and IOMMUs.
    pub fn stop_all(&mut self) -> usize {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let functions: Vec<PciAddress> = names.filter_map(|name| name.parse().ok()).collect();
        let mut stopped = 0;
        for function in functions {
            let class = self.config_read(function, CLASS);
            if class >> 24 != BRIDGE && class >> 16 != IOMMU {
                stopped += usize::from(pci::clear_bus_master(self, function));
            }
        }
        stopped
    }

    fn file(&mut self, function: PciAddress) -> Option<&File> {
        if !self.files.contains_key(&function) {
            let path = self.folder.join(function.to_string()).join("config");
            let file = File::options().read(true).write(true).open(path).ok()?;
            self.files.insert(function, file);
        }
        self.files.get(&function)
    }
}

impl Default for SysfsConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSpace for SysfsConfigSpace {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        let mut dword = [0; 4];
        let file = self.file(function);
        let read = file.map(|file| file.read_exact_at(&mut dword, offset.into()));
        if let Some(Ok(())) = read { u32::from_le_bytes(dword) } else { u32::MAX }
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        if let Some(file) = self.file(function) {
            // One write of an aligned dword is one access; the kernel does not refuse it to root.
            let _ = file.write_all_at(&value.to_le_bytes(), offset.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn r2_all_that_may_be_at_work_is_stopped_but_no_bridge() {
        let folder = std::env::temp_dir().join(format!("iommud-stopped-{}", std::process::id()));
        let command = |class: [u8; 2], before: u8| {
            let function = folder.join("0000:00:02.0");
            fs::create_dir_all(&function).unwrap();
            let [base, sub] = class;
            let bytes = [0x34, 0x12, 0xe8, 0x11, before, 0, 0x10, 0, 0, 0, sub, base];
            fs::write(function.join("config"), bytes).unwrap();
            let mut space = SysfsConfigSpace::at(&folder);
            let stopped = space.stop_all();
            (stopped, space.config_read("0000:00:02.0".parse().unwrap(), 4))
        };
        assert_eq!(command([0xff, 0], 6), (1, 2));
        assert_eq!(command([0xff, 0], 2), (0, 0x10_0002));
        for bridge in [[6, 0], [6, 4], [8, 6]] {
            assert_eq!(command(bridge, 6), (0, 0x10_0006), "{bridge:?}");
        }
        assert_eq!(command([8, 5], 4).0, 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_function_is_its_file_and_an_absent_one_reads_as_all_ones() {
        let folder = std::env::temp_dir().join(format!("iommud-config-{}", std::process::id()));
        let function = folder.join("0000:00:02.0");
        fs::create_dir_all(&function).unwrap();
        fs::write(function.join("config"), [0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0]).unwrap();
        let mut space = SysfsConfigSpace::at(&folder);
        let edu = "0000:00:02.0".parse().unwrap();
        assert_eq!(space.config_read(edu, 0), 0x11e8_1234);
        space.config_write(edu, 4, 6);
        assert_eq!(space.config_read(edu, 4), 6);
        assert_eq!(space.config_read(edu, 8), u32::MAX);
        let absent = "0000:00:03.0".parse().unwrap();
        space.config_write(absent, 4, 6);
        assert_eq!(space.config_read(absent, 0), u32::MAX);
        fs::remove_dir_all(folder).unwrap();
    }
}
