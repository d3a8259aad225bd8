//! The workspace and the `cargo` that builds it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::process::run;

/// The workspace's root directory.
pub fn root() -> &'static Path {
    // Two rooms up from this package, wherever the rig was started.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."))
}

/// Where cargo builds: `target` in the root, unless `CARGO_TARGET_DIR` says otherwise.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the rig keeps what it fetched and what guests wrote.
pub fn scratch_dir() -> PathBuf {
    target_dir().join("rig")
}

/// The cargo that started the rig, at the workspace's root, without colours.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root())
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    cargo
}

/// A program that is not to see which toolchain runs the rig: a rustup toolchain describes itself to the programs it
/// starts, and this one uses another.
pub fn elsewhere(program: &str) -> Command {
    let mut command = Command::new(program);
    let inherited = env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_str().is_some_and(is_toolchains)) {
        command.env_remove(name);
    }
    command
}

/// Whether an environment variable tells of the toolchain, or the package, that runs this program.
fn is_toolchains(name: &str) -> bool {
    let exact = ["CARGO", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"];
    exact.contains(&name)
        || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
            .iter()
            .any(|start| name.starts_with(start))
}

/// Something that is to be booted could not be put together.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub why: String,
    /// What was said until then.
    pub lines: Vec<String>,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { why: error.to_string(), lines: Vec::new() }
    }
}

/// The executables that a command of cargo's makes.
pub fn build(mut command: Command, limit: Duration) -> Result<Vec<PathBuf>, Failure> {
    command.arg("--message-format=json-render-diagnostics");
    match run(command, limit) {
        Ok(end) if end.status.success() => Ok(executables(&end.lines)),
        Ok(end) => Err(Failure { why: end.status.to_string(), lines: diagnostics(end.lines) }),
        Err(error) => Err(Failure { why: error.to_string(), lines: error.lines().to_vec() }),
    }
}

/// The executables that a build with `--message-format=json-render-diagnostics` made, from its output.
pub fn executables(lines: &[String]) -> Vec<PathBuf> {
    let messages = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    messages
        .filter_map(|message: serde_json::Value| {
            Some(PathBuf::from(message.get("executable")?.as_str()?))
        })
        .collect()
}

/// What such a build has to say to a person.
pub fn diagnostics(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.starts_with('{')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_one_with_the_workspace() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn executables_are_found_between_other_messages() {
        let lines = [
            "   Compiling guest v0.1.0",
            r#"{"reason":"compiler-artifact","executable":null}"#,
            r#"{"reason":"compiler-artifact","executable":"/t/release/guest","fresh":true}"#,
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"half"#,
        ];
        let lines = lines.map(String::from);
        assert_eq!(executables(&lines), [PathBuf::from("/t/release/guest")]);
        assert_eq!(diagnostics(lines.into()), ["   Compiling guest v0.1.0"]);
    }

    #[test]
    fn another_toolchains_variables_are_kept_out() {
        assert!(is_toolchains("RUSTUP_TOOLCHAIN") && is_toolchains("CARGO_PKG_NAME"));
        assert!(!is_toolchains("CARGO_HOME") && !is_toolchains("PATH"));
    }
}
