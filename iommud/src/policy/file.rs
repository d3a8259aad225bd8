//! From a path to a policy.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use iommu_engine::policy::Policy;

use super::error::PolicyError;
use super::text;

/// Where the policy of a machine may be: what is in the first that is there holds. On Redox, iommud starts from the
/// initfs, before there is a root file system.
const DEFAULT_FILES: &[&str] = if cfg!(target_os = "redox") {
    &["/etc/iommud.ron", "/scheme/initfs/etc/iommud.ron"]
} else {
    &["/etc/iommud.ron"]
};

/// What Redox answers where nobody serves the scheme that a path leads to (ENODEV), as before there is a root file
/// system.
const NO_SUCH_SCHEME: i32 = 19;

/// The largest file that is read, in bytes: a thousand rules with their reasons, and little enough that a path
/// to something else is an answer.
const MOST_BYTES: u64 = 64 * 1024;

/// The policy in this file.
///
/// # Errors
///
/// [`PolicyError`], also when there is no such file: whoever names one means it.
pub fn load(file: &Path) -> Result<Policy, PolicyError> {
    let unreadable = |error| PolicyError::Unreadable { file: file.into(), error };
    let mut bytes = Vec::new();
    let read = |file: File| file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    File::open(file).and_then(read).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(PolicyError::TooLarge { file: file.into(), most: MOST_BYTES });
    }
    text::parse(&bytes).map_err(|fault| PolicyError::Wrong { file: file.into(), fault })
}

/// The machine's policy and where it is, `/etc/iommud.ron` or on Redox in the initfs; or `None` where there is no such
/// file and what holds is [`Policy::default`].
///
/// # Errors
///
/// [`PolicyError`]: a policy that cannot be read is not the same as none.
pub fn load_default() -> Result<Option<(Policy, &'static Path)>, PolicyError> {
    for file in DEFAULT_FILES.iter().map(Path::new) {
        if let Some(policy) = load_if_any(file)? {
            return Ok(Some((policy, file)));
        }
    }
    Ok(None)
}

fn load_if_any(file: &Path) -> Result<Option<Policy>, PolicyError> {
    match load(file) {
        Err(PolicyError::Unreadable { error, .. }) if is_absent(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether there is nothing at all where a file was looked for.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || cfg!(target_os = "redox") && error.raw_os_error() == Some(NO_SUCH_SCHEME)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::path::PathBuf;
    use std::process;

    use super::*;

    fn in_file(name: &str, text: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("iommud-policy-{}-{name}", process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_missing_file_is_the_default_unless_somebody_named_it() {
        let nowhere = Path::new("/nonexistent/iommud.ron");
        assert_eq!(load_if_any(nowhere).unwrap(), None);
        let error = load(nowhere).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/iommud.ron: "), "{error}");
        // A folder is something else than a file that is absent.
        assert!(load_if_any(Path::new("/")).is_err());
    }

    #[test]
    fn r5_a_broken_policy_is_told_with_file_line_and_column() {
        let path = in_file("broken", "(\n    defualt: deny,\n)\n");
        let error = load(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:2:5: ", path.display())), "{error}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn r5_a_large_file_is_no_policy() {
        let path = in_file("large", &" ".repeat(MOST_BYTES as usize + 1));
        assert!(matches!(load(&path), Err(PolicyError::TooLarge { .. })));
        fs::write(&path, format!("(){}", " ".repeat(MOST_BYTES as usize - 2))).unwrap();
        assert_eq!(load(&path).unwrap(), Policy::default());
        fs::remove_file(path).unwrap();
    }
}
