//! The firmware's tables, as the acpi scheme shows them.
//!
//! `/scheme/acpi/tables` is a directory with a file for each table, named by the table's signature, its
//! OEM id and its OEM table id, the latter two in hexadecimal: `DMAR-424F43485320-4258504320202020`.

use std::fs;

use iommu_engine::platform::PlatformError;

/// Where the tables are.
const TABLES: &str = "/scheme/acpi/tables";

/// The first table with this signature, whole, or `None` when the machine has none.
///
/// That the directory cannot be read is an error even where there is no ACPI at all: a daemon that is
/// started before acpid must not take its absence for a machine without an IOMMU.
pub fn read_table(signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
    for entry in fs::read_dir(TABLES).map_err(|_| PlatformError::Acpi)? {
        let entry = entry.map_err(|_| PlatformError::Acpi)?;
        if has_signature(entry.file_name().as_encoded_bytes(), signature) {
            return fs::read(entry.path()).map(Some).map_err(|_| PlatformError::Acpi);
        }
    }
    Ok(None)
}

/// Whether a file of this name holds a table with this signature.
fn has_signature(name: &[u8], signature: [u8; 4]) -> bool {
    name.strip_prefix(&signature).is_some_and(|rest| rest.starts_with(b"-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_by_its_signature_and_nothing_else() {
        assert!(has_signature(b"DMAR-424F43485320-4258504320202020", *b"DMAR"));
        assert!(!has_signature(b"APIC-424F43485320-4258504320202020", *b"DMAR"));
        for name in [&b""[..], b"DMAR", b"DMA", b"DMARX-", b"dmar-424F43485320", b"-DMAR-"] {
            assert!(!has_signature(name, *b"DMAR"), "{name:?}");
        }
    }

    #[test]
    fn tables_that_cannot_be_read_are_not_tables_that_are_absent() {
        // The host has no acpi scheme.
        assert_eq!(read_table(*b"DMAR"), Err(PlatformError::Acpi));
    }
}
