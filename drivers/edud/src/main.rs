//! The program `edud`; all of it is in the library's `daemon` module.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use edud::daemon::{Options, run};

fn main() -> ExitCode {
    match run::run(&Options::parse(), &mut io::stdout()) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("edud: {error}");
            ExitCode::FAILURE
        }
    }
}
