//! PCI configuration space, as sysfs shows it: a file for each function.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dma_types::PciAddress;
use iommu_engine::platform::ConfigSpace;

/// Where the functions are, each a folder named by its address.
pub(super) const FUNCTIONS: &str = "/sys/bus/pci/devices";

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
