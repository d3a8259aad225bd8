//! Tells the tests whether the tables of real machines are there, which are not in the repository.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(acpi_corpus)");
    let Some(folder) = env::var_os("CARGO_MANIFEST_DIR") else { return };
    let corpus = Path::new(&folder).join("../../shared/acpi");
    println!("cargo::rerun-if-changed={}", corpus.display());
    if corpus.is_dir() {
        println!("cargo::rustc-cfg=acpi_corpus");
    }
}
