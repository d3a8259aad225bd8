//! `iommuctl capture`: this machine's tables, as files that `iommuctl plan` reads.

use std::fs;
use std::path::Path;

use iommu_engine::acpi::{dmar, ivrs};

use super::error::Error;
use super::plan::live;
use super::plan::report::count;
use super::plan::{Dump, dump};

/// The file of the DMAR table.
pub const DMAR_FILE: &str = "dmar.bin";
/// The file of the IVRS table.
pub const IVRS_FILE: &str = "ivrs.bin";
/// The file of the PCI functions.
pub const PCI_FILE: &str = "pci.txt";

/// Writes what there is into a folder, which is made if there is none. What was written, in words.
///
/// # Errors
///
/// [`Error::Live`] if the machine does not tell, [`Error::Unwritable`].
pub fn capture(folder: &Path) -> Result<String, Error> {
    let tables =
        [("dmar", DMAR_FILE, dmar::table::SIGNATURE), ("ivrs", IVRS_FILE, ivrs::table::SIGNATURE)];
    // All is read before anything is written, so that there is never half a capture.
    let mut found = Vec::new();
    let mut absent = 0;
    for (option, file, signature) in tables {
        match live::table(signature).map_err(Error::tables)? {
            Some(bytes) => found.push((option, file, bytes)),
            None => absent += 1,
        }
    }
    let functions = live::functions().map_err(Error::functions)?;
    found.push(("pci", PCI_FILE, functions.text().into_bytes()));

    let unwritable = |path: &Path| {
        let file = path.to_path_buf();
        move |error| Error::Unwritable { file, error }
    };
    fs::create_dir_all(folder).map_err(unwritable(folder))?;
    let (mut text, mut plan) = (String::new(), String::from("iommuctl plan"));
    for (option, file, bytes) in found {
        let path = folder.join(file);
        fs::write(&path, &bytes).map_err(unwritable(&path))?;
        text += &format!("{}: {} bytes\n", path.display(), bytes.len());
        plan += &format!(" --{option} {}", path.display());
    }
    if absent == tables.len() {
        text += "no DMAR and no IVRS table: there is no IOMMU, or it is switched off in the firmware's setup\n";
    }
    text += &remarks(&functions);
    Ok(text + "what iommud would do with it: " + &plan + "\n")
}

/// What is not in the capture, and why.
fn remarks(functions: &Dump) -> String {
    let short = functions.functions().filter(|(_, bytes)| bytes.len() < dump::CONVENTIONAL).count();
    if short == 0 {
        return String::new();
    }
    format!("in part only: {}; run this as root\n", count(short, "PCI function"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_are_cut_off_are_counted() {
        let mut functions = Dump::default();
        functions.insert("00:02.0".parse().unwrap(), vec![0; 256]);
        assert_eq!(remarks(&functions), "");
        functions.insert("00:03.0".parse().unwrap(), vec![0; 64]);
        assert!(remarks(&functions).starts_with("in part only: 1 PCI function;"));
    }
}
