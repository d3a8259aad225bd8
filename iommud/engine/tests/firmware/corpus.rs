//! Where the tables of real machines are.

use std::fs;
use std::path::Path;

/// A table of a real machine.
pub(crate) struct Table {
    /// What its file is called: the start of its SHA-256.
    pub(crate) name: String,
    /// The table.
    pub(crate) bytes: Vec<u8>,
}

/// All tables with this signature, in the order of their names; none where the corpus is absent.
pub(crate) fn tables(signature: &str) -> Vec<Table> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/acpi").join(signature);
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    let table = |file: &std::path::PathBuf| Table {
        name: file.file_stem().unwrap().display().to_string(),
        bytes: fs::read(file).unwrap(),
    };
    files.iter().map(table).collect()
}

/// The checksum byte set to what it must be, and the length to what there is.
pub(crate) fn seal(table: &mut [u8]) {
    let length = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
}
