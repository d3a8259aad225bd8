//! The firmware's tables, as sysfs shows them: one file for each, named by its signature.

use std::fs;
use std::io;
use std::path::Path;

use iommu_engine::platform::PlatformError;

/// Where the tables are.
const TABLES: &str = "/sys/firmware/acpi/tables";

/// The first table with this signature, whole, or `None` when the machine has none.
pub fn read_table(signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
    read_from(Path::new(TABLES), signature)
}

fn read_from(tables: &Path, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
    // A name with anything else in it could be a path to somewhere else, and is no table's.
    if !signature.iter().all(u8::is_ascii_alphanumeric) {
        return Ok(None);
    }
    let name = String::from_utf8_lossy(&signature);
    match fs::read(tables.join(&*name)) {
        Ok(table) => Ok(Some(table)),
        // A guest without ACPI has no IOMMU either, and without sysfs there is nothing to be known.
        Err(error) if error.kind() == io::ErrorKind::NotFound && tables.is_dir() => Ok(None),
        Err(_) => Err(PlatformError::Acpi),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_cannot_be_read_are_not_tables_that_are_absent() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(read_from(source, *b"DMAR"), Ok(None));
        assert_eq!(read_from(&source.join("nowhere"), *b"DMAR"), Err(PlatformError::Acpi));
        // A directory where a file should be.
        assert_eq!(read_from(Path::new("/"), *b"proc"), Err(PlatformError::Acpi));
    }

    #[test]
    fn r5_a_signature_is_no_path() {
        assert_eq!(read_from(Path::new("/proc/self"), *b"../1"), Ok(None));
    }
}
