//! The program `iommud`; all of it is in the library's `daemon` module.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser;
    use iommud::daemon::{Options, log, run};

    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(answer) => {
            // Help and version are answers, too. Nobody is left to tell if they cannot be printed.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(target_os = "redox")]
fn main() -> ExitCode {
    use iommud::daemon::{log, redox};

    match redox::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
