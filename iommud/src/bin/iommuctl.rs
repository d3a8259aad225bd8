//! The program `iommuctl`; all of it is in the library's `ctl` module.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use iommud::ctl::{Options, run};

fn main() -> ExitCode {
    match run::run(&Options::parse(), &mut io::stdout()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("iommuctl: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
