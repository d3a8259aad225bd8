//! The program `iommu-run`; all of it is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use iommu_run::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(target_os = "redox")]
    let error = match iommu_run::redox::run(&options) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    #[cfg(not(target_os = "redox"))]
    let error = {
        let _ = options;
        iommu_run::Error::NotRedox
    };
    eprintln!("iommu-run: {error}");
    ExitCode::from(error.exit_code())
}
