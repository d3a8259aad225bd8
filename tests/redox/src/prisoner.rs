//! What a driver that is up to no good tries first: to open what is none of its business.

use std::fs::File;
use std::process::ExitCode;

use crate::console::say;

/// The first argument that asks for this; paths follow.
pub(crate) const PRISONER: &str = "open";

/// How the line of a path ends that could be opened.
pub(crate) const OPENED: &str = ": opened";

/// What is in the line of a path that could not.
pub(crate) const REFUSED: &str = ": refused";

/// Tells of each path whether it can be opened.
pub(crate) fn open(paths: &[&str]) -> ExitCode {
    for path in paths {
        match File::open(path) {
            Ok(_) => say(format_args!("{path}{OPENED}")),
            Err(error) => say(format_args!("{path}{REFUSED}: {error}")),
        }
    }
    ExitCode::SUCCESS
}
