//! Tells the tests whether the tables of real machines are there, which are not in the repository, and a
//! disassembler to compare their parsing with.

use std::env;
use std::path::Path;

/// What `acpica-tools` installs.
const DISASSEMBLER: &str = "/usr/bin/iasl";

fn main() {
    let corpus = env::var_os("CARGO_MANIFEST_DIR")
        .map(|folder| Path::new(&folder).join("../../../shared/acpi"));
    println!("cargo::rustc-check-cfg=cfg(acpi_corpus)");
    println!("cargo::rustc-check-cfg=cfg(iasl)");
    let Some(corpus) = corpus else { return };
    println!("cargo::rerun-if-changed={}", corpus.display());
    if !corpus.is_dir() {
        return;
    }
    println!("cargo::rustc-cfg=acpi_corpus");
    println!("cargo::rerun-if-changed={DISASSEMBLER}");
    if Path::new(DISASSEMBLER).is_file() {
        println!("cargo::rustc-cfg=iasl");
    }
}
