//! Running a program in this process's place.
//!
//! The program is opened before the process leaves its namespace, and need not be in the new one.

use std::ffi::{CString, OsString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::ptr;

use super::descriptors;

unsafe extern "C" {
    /// POSIX's: runs the program that is open as `file`. Comes back only if that failed.
    fn fexecve(
        file: c_int,
        arguments: *const *const c_char,
        variables: *const *const c_char,
    ) -> c_int;
}

/// Opens a program, to be run later.
pub(super) fn open(program: &Path) -> io::Result<File> {
    let image = File::open(program)?;
    // relibc reads it after it has closed what is to be closed (63599227, `src/platform/redox/exec.rs`).
    descriptors::leave_open(image.as_raw_fd() as usize)?;
    Ok(image)
}

/// Runs an opened program. Comes back only if that failed.
pub(super) fn run(
    image: &File,
    words: &[OsString],
    variables: &[(OsString, OsString)],
) -> io::Error {
    let words: Result<Vec<_>, _> =
        words.iter().map(|word| CString::new(word.clone().into_vec())).collect();
    let variables: Result<Vec<_>, _> = variables
        .iter()
        .map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            CString::new(variable.into_vec())
        })
        .collect();
    match (words, variables) {
        (Ok(words), Ok(variables)) => {
            let (words, variables) = (list(&words), list(&variables));
            // SAFETY: both are lists of strings that end with zero, ended by null, and live until the call is over.
            unsafe { fexecve(image.as_raw_fd(), words.as_ptr(), variables.as_ptr()) };
            io::Error::last_os_error()
        }
        (Err(error), _) | (_, Err(error)) => error.into(),
    }
}

fn list(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}
