//! What comes from Debian's packages: some installed, some only unpacked below the target directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, io};

use thiserror::Error;

use crate::cargo::scratch_dir;
use agent::process::{ProcessError, run};

const APT_LIMIT: Duration = Duration::from_secs(600);

/// A package that must be installed, and how to see that it is.
#[derive(Clone, Copy)]
pub struct Need {
    /// The package's name.
    pub package: &'static str,
    /// Whether what it brings is there, whoever brought it.
    pub present: fn() -> bool,
}

/// Something from Debian is not to be had.
#[derive(Debug, Error)]
pub enum DebianError {
    /// It takes root to install it.
    #[error("as root, run: apt-get install --no-install-recommends {0}")]
    NotRoot(String),
    /// apt-get, dpkg-deb or tar failed.
    #[error("{tool} failed: {why}")]
    Failed {
        /// The tool and its arguments.
        tool: String,
        /// The last thing it said.
        why: String,
    },
    /// apt-get was content, but what was wanted is still not there.
    #[error("{0} is installed but not usable (too old?)")]
    Unusable(String),
    /// apt knows no such package.
    #[error("apt knows no package {0}; run `apt-get update`, as root")]
    Unknown(String),
    /// A package does not hold the file that was wanted.
    #[error("{package} has no file {member}")]
    NoMember {
        /// The package.
        package: String,
        /// The pattern of the file's path.
        member: String,
    },
    /// A tool could not be run to its end.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file could not be written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Installs whatever of `needs` is missing, when we are root; package lists are brought up to date
/// only when the packages cannot be had otherwise.
pub fn install(needs: &[Need]) -> Result<(), DebianError> {
    let missing = || -> Vec<&str> {
        needs.iter().filter(|need| !(need.present)()).map(|need| need.package).collect()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(DebianError::NotRoot(packages.join(" ")));
    }
    println!("  installing {}", packages.join(" "));
    let install = [&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat();
    if apt_get(&install).is_err() || !missing().is_empty() {
        apt_get(&["update"])?;
        apt_get(&install)?;
    }
    match missing() {
        left if left.is_empty() => Ok(()),
        left => Err(DebianError::Unusable(left.join(" "))),
    }
}

/// Whether a program of this name is on the path.
pub fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The kernel image of Debian's newest kernel, downloaded and unpacked, not installed.
pub fn kernel() -> Result<PathBuf, DebianError> {
    with_fresh_lists(|| file_of(&newest_kernel()?, "./boot/vmlinuz-*"))
}

/// The package of Debian's newest kernel.
fn newest_kernel() -> Result<String, DebianError> {
    // The kernels' packages have a name of their own each; this one depends on the newest.
    let package = field("linux-image-amd64", "Depends").as_deref().and_then(kernel_package);
    package.ok_or_else(|| DebianError::Unknown("linux-image-amd64".into()))
}

/// What modules for that kernel are built with: the folder to start `make` in. Downloaded and unpacked, not installed; the
/// compiler and libraries that it needs are for the caller to install.
pub fn kernel_headers() -> Result<PathBuf, DebianError> {
    with_fresh_lists(|| {
        let headers = newest_kernel()?.replacen("image", "headers", 1);
        let unknown = || DebianError::Unknown(headers.clone());
        let depends = field(&headers, "Depends").ok_or_else(unknown)?;
        let version = field(&headers, "Version").ok_or_else(unknown)?;
        let tree = scratch_dir().join("debian").join(format!("{headers}_{version}"));
        let folder = |tree: &Path| tree.join("usr/src").join(&headers);
        if tree.is_dir() {
            return Ok(folder(&tree));
        }
        let unfinished = tree.with_extension("part");
        for package in [headers.as_str()].into_iter().chain(names(&depends)) {
            unpack(package, &unfinished)?;
        }
        // Its packages name each other by where they are installed.
        let makefile = folder(&unfinished).join("Makefile");
        let failed = |path: &Path, error| DebianError::File { path: path.into(), error };
        let text = fs::read_to_string(&makefile).map_err(|error| failed(&makefile, error))?;
        let installed = "/usr/src/";
        let text = text.replace(installed, &format!("{}{installed}", tree.display()));
        fs::write(&makefile, text).map_err(|error| failed(&makefile, error))?;
        fs::rename(&unfinished, &tree).map_err(|error| failed(&tree, error))?;
        Ok(folder(&tree))
    })
}

/// Debian's statically linked busybox, downloaded and unpacked, not installed.
pub fn busybox() -> Result<PathBuf, DebianError> {
    with_fresh_lists(|| file_of("busybox-static", "*bin/busybox"))
}

/// Tries once more after `apt-get update`, when we are root: lists may be missing, or name a version that has
/// left the mirror.
fn with_fresh_lists(
    attempt: impl Fn() -> Result<PathBuf, DebianError>,
) -> Result<PathBuf, DebianError> {
    attempt().or_else(|error| {
        if !is_root() {
            return Err(error);
        }
        apt_get(&["update"])?;
        attempt()
    })
}

/// One file out of the newest version of a package. Each version is downloaded once.
fn file_of(package: &str, member: &str) -> Result<PathBuf, DebianError> {
    let unknown = || DebianError::Unknown(package.into());
    let version = field(package, "Version").ok_or_else(unknown)?;
    let dir = scratch_dir().join("debian");
    let file = dir.join(format!("{package}_{}", version.replace(':', "%3a")));
    if file.is_file() {
        return Ok(file);
    }
    let deb = download(package, &dir)?;
    let contents = member_of(package, &deb, member);
    // Whatever came of it, the package is not needed any more.
    let _ = fs::remove_file(deb);
    let unfinished = file.with_extension("part");
    match fs::write(&unfinished, contents?).and_then(|()| fs::rename(&unfinished, &file)) {
        Ok(()) => Ok(file),
        Err(error) => Err(DebianError::File { path: file, error }),
    }
}

/// All of the newest version of a package, put into a folder beside what is there.
fn unpack(package: &str, into: &Path) -> Result<(), DebianError> {
    let deb = download(package, &scratch_dir().join("debian"))?;
    let mut unpacker = Command::new("dpkg-deb");
    unpacker.arg("--extract").arg(&deb).arg(into);
    let unpacked = checked(unpacker);
    let _ = fs::remove_file(deb);
    unpacked
}

/// Downloads the newest version of a package into a folder.
fn download(package: &str, dir: &Path) -> Result<PathBuf, DebianError> {
    eprintln!("  downloading {package}");
    fs::create_dir_all(dir).map_err(|error| DebianError::File { path: dir.into(), error })?;
    let mut download = Command::new("apt-get");
    download.args(["download", package]).current_dir(dir);
    checked(download)?;
    downloaded(package, dir).ok_or_else(|| DebianError::Unknown(package.into()))
}

fn downloaded(package: &str, dir: &Path) -> Option<PathBuf> {
    let start = format!("{package}_");
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "deb")).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start))
    })
}

/// The contents of one file of a package.
fn member_of(package: &str, deb: &Path, member: &str) -> Result<Vec<u8>, DebianError> {
    let failed = |tool: &str, why: String| DebianError::Failed { tool: tool.into(), why };
    let mut unpacker = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("dpkg-deb", error.to_string()))?;
    let archive = unpacker.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let unpacked = Command::new("tar")
        .args(["--extract", "--to-stdout", "--wildcards", member])
        .stdin(archive)
        .output();
    let whole = unpacker.wait().is_ok_and(|status| status.success());
    let contents = unpacked.map_err(|error| failed("tar", error.to_string()))?.stdout;
    if !whole {
        return Err(failed("dpkg-deb", format!("{package} is damaged")));
    }
    if contents.is_empty() {
        return Err(DebianError::NoMember { package: package.into(), member: member.into() });
    }
    Ok(contents)
}

/// A field of the newest version of a package that apt's lists know.
fn field(package: &str, name: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions", package]);
    let shown = run(command, APT_LIMIT).ok()?;
    let start = format!("{name}: ");
    shown.lines.iter().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

/// The packages in a field like `Depends`, of alternatives the first.
fn names(depends: &str) -> impl Iterator<Item = &str> {
    depends.split(',').filter_map(|item| item.split_whitespace().next())
}

/// The kernel in the dependencies of `linux-image-amd64`: `linux-image-6.1.0-56-amd64 (= 6.1.192-2)`.
fn kernel_package(depends: &str) -> Option<String> {
    names(depends).map(str::to_owned).find(|name| {
        let release = name.strip_prefix("linux-image-");
        release.is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Whether we may install things.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn apt_get(arguments: &[&str]) -> Result<(), DebianError> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    checked(command)
}

fn checked(command: Command) -> Result<(), DebianError> {
    let tool = format!("{command:?}").replace('"', "");
    let end = run(command, APT_LIMIT)?;
    if end.status.success() {
        return Ok(());
    }
    Err(DebianError::Failed { tool, why: end.lines.last().cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_among_the_dependencies() {
        let depends =
            "linux-base (>= 4.3), linux-image-6.1.0-56-amd64 (= 6.1.192-2), linux-image-x";
        assert_eq!(kernel_package(depends).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(kernel_package("linux-base"), None);
    }

    #[test]
    fn dependencies_are_named_without_their_versions() {
        let depends = "linux-headers-common (= 6.1.192-2), kbuild (>= 6), compiler | other";
        let expected = ["linux-headers-common", "kbuild", "compiler"];
        assert_eq!(names(depends).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn programs_are_looked_for_on_the_path() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
