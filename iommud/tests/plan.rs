//! The program `iommuctl` as a planner: its exit codes, and plans for real machines.
//!
//! The tables of real machines are not in the repository. Where they are absent, `build.rs` sees to it that the
//! test counts as ignored.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use iommud::ctl::plan::input::Table;
use iommud::ctl::plan::{Dump, Input, Report};

/// A host bridge and a device; `lspci -x` of them, shortened.
const FUNCTIONS: &str = "\
00:00.0 Host bridge: Intel Corporation 82G33/G31/P35/P31 Express DRAM Controller
00: 86 80 c0 29 03 00 00 00 00 00 00 06 00 00 00 00

00:02.0 Unclassified device [00ff]: Device 1234:11e8 (rev 10)
00: 34 12 e8 11 07 00 10 00 10 00 ff 00 00 00 00 00
";

/// A folder of its own for a test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("iommuctl-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The exit code, what was written, and what was complained of.
fn plan(options: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommuctl"));
    let output = command.arg("plan").args(options).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A DMAR table with one unit for all devices, at this address.
fn dmar(registers: u64) -> Vec<u8> {
    let mut table =
        b"DMAR\x40\0\0\0\x01\0IOMMUDexample \x01\0\0\0TEST\x01\0\0\0\x26\0\0\0\0\0\0\0\0\0\0\0"
            .to_vec();
    table.extend([0, 0, 16, 0, 1, 0, 0, 0]);
    table.extend(registers.to_le_bytes());
    table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

#[test]
fn a_plan_has_its_exit_codes() {
    let folder = Folder::new("codes");
    let sound = folder.file("sound.bin", &dmar(0xfed9_0000));
    let unsound = folder.file("unsound.bin", &dmar(0xfed9_0001));
    let functions = folder.file("pci.txt", FUNCTIONS.as_bytes());
    let policy = folder.file("policy.ron", b"(default: identity)");

    let (code, text, error) = plan(&["--dmar", &sound, "--pci", &functions, "--policy", &policy]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("0000:00:02.0  1234:11e8") && text.contains("ALL MEMORY"), "{text}");
    assert!(text.ends_with("0 devices would be confined, 2 would not\n"), "{text}");

    let (code, text, _) = plan(&["--dmar", &unsound, "--pci", &functions]);
    assert_eq!(code, Some(1));
    assert!(text.contains("REFUSED: DMAR offset 0x30: "), "{text}");
    for (name, bytes) in
        [("no.bin", &b"no table"[..]), ("empty.bin", b""), ("cut.bin", &dmar(4096)[..40])]
    {
        for kind in ["--dmar", "--ivrs"] {
            assert_eq!(plan(&[kind, &folder.file(name, bytes)]).0, Some(2), "{kind} {name}");
        }
    }
    let (code, text, _) = plan(&["--json", "--dmar", &folder.file("no.bin", b"no table")]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("\"would_not_start\": \"the firmware's DMAR table cannot be used: "),
        "{text}"
    );
}

#[test]
fn r5_files_that_cannot_be_used_are_told_with_their_place() {
    let folder = Folder::new("files");
    let table = folder.file("dmar.bin", &dmar(0xfed9_0000));
    let broken = folder.file("pci.txt", b"00:02.0 edu\n00: 34 12 e8 1\n");
    let (code, text, error) = plan(&["--dmar", &table, "--pci", &broken]);
    assert_eq!((code, text.as_str()), (Some(2), ""));
    assert!(error.starts_with(&format!("iommuctl: {broken}:2: a line has up to 16")), "{error}");

    let broken = folder.file("policy.ron", b"(default: none)");
    let (code, _, error) = plan(&["--dmar", &table, "--policy", &broken]);
    assert_eq!(code, Some(2));
    assert!(error.starts_with(&format!("iommuctl: {broken}:1:11: `none` will not do")), "{error}");

    assert_eq!(plan(&["--dmar", "/nonexistent/dmar.bin"]).0, Some(2));
    assert_eq!(plan(&["--dmar", &table, "--ivrs", &table]).0, Some(2));
}

#[test]
fn memory_that_is_reserved_for_many_devices_takes_several_lines() {
    let folder = Folder::new("many");
    // Memory for six endpoints, 00:01.0 to 00:06.0.
    let mut table = dmar(0xfed9_0000);
    table.extend([1, 0, 72, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x7b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7b]);
    table.extend([0; 4]);
    for device in 1..=6 {
        table.extend([1, 8, 0, 0, 0, 0, device, 0]);
    }
    table[4] = table.len() as u8;
    let file = folder.file("many.bin", &table);
    let (_, text, _) = plan(&["--dmar", &file]);
    let first = "endpoint 00:01.0, endpoint 00:02.0, endpoint 00:03.0, endpoint 00:04.0\n";
    let (_, rest) = text.split_once(first).unwrap_or_else(|| panic!("{text}"));
    assert!(rest.trim_start().starts_with("endpoint 00:05.0, endpoint 00:06.0\n"), "{text}");
    let (_, json, _) = plan(&["--json", "--dmar", &file]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["reserved"][0]["devices"][5], "endpoint 00:06.0");
}

#[test]
fn a_capture_has_no_json_and_says_so() {
    let folder = Folder::new("capture");
    let path = folder.0.join("never");
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommuctl"));
    let output = command.args(["capture", "--json"]).arg(&path).output().unwrap();
    assert_eq!((output.status.code(), path.exists()), (Some(2), false));
}

#[test]
#[cfg_attr(not(acpi_corpus), ignore = "needs the tables of real machines, in ../shared/acpi")]
fn r5_every_table_of_a_real_machine_has_a_plan() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/acpi");
    let functions = Dump::parse(FUNCTIONS.as_bytes()).unwrap();
    for signature in ["DMAR", "IVRS"] {
        let mut files: Vec<_> = fs::read_dir(corpus.join(signature))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
        files.sort();
        let (mut units, mut used, mut regions, mut refused, mut odd) = (0, 0, 0, 0, 0);
        for file in &files {
            let name = file.file_stem().unwrap().display().to_string();
            let table = Table { from: name.clone(), bytes: fs::read(file).unwrap() };
            let mut input = Input { functions: Some(functions.clone()), ..Input::default() };
            match signature {
                "DMAR" => input.dmar = Some(table),
                _ => input.ivrs = Some(table),
            }
            let alone = Report::new(Input { functions: None, ..input.clone() });
            let report = Report::new(input);
            assert!(!report.text().is_empty() && !alone.text().is_empty());
            let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
            let rows = |key: &str| value[key].as_array().unwrap().clone();
            assert!(value["would_not_start"].is_null(), "{name}: {}", value["would_not_start"]);
            assert_eq!(rows("devices").len(), 2, "{name}");
            units += rows("units").len();
            used += rows("units").iter().filter(|unit| unit["state"] == "used").count();
            regions += rows("reserved").len();
            odd += rows("odd").len();
            let reasons = rows("refused");
            // That a scope leads nowhere, or a unit has no capability, is because the functions here are not that machine's.
            let reasons: Vec<_> = reasons
                .iter()
                .filter(|reason| !reason.as_str().unwrap().contains("leads nowhere"))
                .filter(|reason| !reason.as_str().unwrap().contains("no IOMMU's capability"))
                .collect();
            refused += usize::from(!reasons.is_empty());
            for reason in reasons {
                println!("{signature} {name}: {reason}");
            }
            for line in rows("odd") {
                println!("{signature} {name}: odd: {line}");
            }
        }
        println!(
            "{} {signature} tables: {units} units, {used} of them used, {regions} reserved regions; \
             {refused} tables with something refused, {odd} oddities",
            files.len()
        );
        assert!(!files.is_empty());
        // 27d1e500a85c0ddd has a unit at address zero, aef2c7fe45dc46fc memory from 0 to 0.
        assert_eq!(refused, if signature == "DMAR" { 2 } else { 0 });
    }
}
