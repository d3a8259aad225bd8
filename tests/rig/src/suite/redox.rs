//! t3: what runs on Redox, type-checked for it and looked at by clippy, with Debian's compiler, which is allowed to
//! build the standard library from source. (Linking would need relibc, which no registry has.)

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cargo::{elsewhere, root, target_dir};
use crate::debian::{Need, install};
use crate::report::Report;
use crate::suite::host::check;
use agent::process::run as run_process;

const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
/// What `cargo clippy` has cargo run in the compiler's place for packages of the workspace. It is given to cargo itself,
/// for another toolchain's `cargo-clippy` may come first in the path.
const CLIPPY: &str = "/usr/bin/clippy-driver";

/// Below the compiler's sysroot, where cargo looks for the standard library's source.
const SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// What the workspace is written for; the older compiler in Debian 12's main archive will not do.
const OLDEST_MINOR: u32 = 95;

const NEEDS: [Need; 4] = [
    Need { package: "rustc-web", present: compiler_is_new_enough },
    Need { package: "rust-web-clippy", present: || Path::new(CLIPPY).is_file() },
    Need { package: "cargo-web", present: || Path::new(CARGO).is_file() },
    Need { package: "rust-web-src", present: || Path::new(SOURCE).is_file() },
];

/// Every package that is part of the product, lowest first, and the self-test.
const PACKAGES: [&str; 11] = [
    "dma-types",
    "libdma",
    "iommu-engine",
    "iommu-service",
    "iommud",
    "pcid-channel",
    "driver-platform",
    "iommu-run",
    "edud",
    "virtio-blkd",
    "selftest",
];

/// The first check includes the standard library: about half a minute on two cores.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn run(report: &mut Report) {
    if let Err(error) = install(&NEEDS) {
        return report.failed("packages", &error.to_string());
    }
    match version() {
        Ok(version) => report.note(&version),
        Err(why) => return report.failed("rustc", &why),
    }
    for package in PACKAGES {
        let mut command = debian_cargo();
        command.args(["check", "--all-features", "--package", package]);
        check(report, package, command, LIMIT);
    }
}

/// Debian's cargo with Debian's compiler, both as they are when nothing else is installed.
fn debian_cargo() -> Command {
    let mut command = elsewhere(CARGO);
    command
        .current_dir(root())
        .env("RUSTC", RUSTC)
        .env("RUSTC_WORKSPACE_WRAPPER", CLIPPY)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-D warnings")
        .env("CARGO_TARGET_DIR", target_dir().join("redox"))
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort")
        .env("CARGO_BUILD_TARGET", "x86_64-unknown-redox");
    command
}

fn version() -> Result<String, String> {
    let mut command = Command::new(RUSTC);
    command.arg("--version").env_remove("LD_LIBRARY_PATH");
    let end = run_process(command, Duration::from_secs(10)).map_err(|error| error.to_string())?;
    end.lines.into_iter().next().ok_or_else(|| format!("{RUSTC} does not tell its version"))
}

fn compiler_is_new_enough() -> bool {
    version().ok().as_deref().and_then(minor).is_some_and(|minor| minor >= OLDEST_MINOR)
}

/// The second number of `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_version_is_understood() {
        assert_eq!(
            minor("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some(96)
        );
        assert_eq!(minor("rustc: command not found"), None);
    }
}
