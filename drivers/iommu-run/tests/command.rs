//! The program as it is called where there is no Redox: its help and its exit codes.
#![cfg(not(target_os = "redox"))]

use std::process::{Command, Output};

use dma_types::PciAddress;
use iommu_run::Error;

fn iommu_run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iommu-run")).args(words).output().unwrap()
}

#[test]
fn it_does_nothing_elsewhere_and_says_so() {
    let output = iommu_run(&["--keep", "acpi", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"iommu-run: a driver can be started so on Redox alone\n");
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_has_the_exit_code_2() {
    for words in [&[][..], &["--serve", "a/b", "true"], &["--kepp", "acpi", "true"]] {
        assert_eq!(iommu_run(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn the_help_lists_the_exit_code_of_each_error() {
    let help = String::from_utf8(iommu_run(&["--help"]).stdout).unwrap();
    let help = help.replace('\n', " ");
    let address: PciAddress = "0000:00:02.0".parse().unwrap();
    let io = || std::io::Error::from_raw_os_error(1);
    let refused = libdma::Error::DeviceBusy;
    for (error, words) in [
        (Error::NoIommud(address), "iommud is not running"),
        (Error::Device { address, error: refused }, "iommud does not give the device"),
        (Error::NoChannel, "pcid's channel does not tell which device it is"),
        (
            pcid_channel::Error::Meaningless.into(),
            "pcid's channel does not tell which device it is",
        ),
        (Error::Namespace(io()), "the namespace cannot be made"),
        (Error::NamespaceEnded, "the namespace cannot be made"),
        (Error::Program { program: "x".into(), error: io() }, "the driver cannot be run"),
    ] {
        let listed = format!("{} {words}", error.exit_code());
        assert!(help.contains(&listed), "{listed}: {help}");
    }
}
