//! The program `iommud`; all of it is in the library's `daemon` module.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
#[cfg(target_os = "linux")]
use iommud::daemon::linux as run;
#[cfg(target_os = "redox")]
use iommud::daemon::redox as run;
use iommud::daemon::{Options, log};

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(answer) => {
            // Help and version are answers, too. Nobody is left to tell if they cannot be printed.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run::run(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::line(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
