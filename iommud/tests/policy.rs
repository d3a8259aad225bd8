//! The program `iommud` with a policy, right and wrong.
#![cfg(target_os = "linux")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};

fn file(name: &str, text: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("iommud-{}-{name}.ron", process::id()));
    fs::write(&path, text).unwrap();
    path
}

fn iommud(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iommud")).args(options).output().unwrap()
}

#[test]
fn r1_a_broken_policy_keeps_the_daemon_from_starting_and_says_where() {
    let path = file("broken", "(\n    default: denied,\n)\n");
    let path_text = path.to_str().unwrap();
    let socket = env::temp_dir().join(format!("iommud-{}-never.sock", process::id()));
    let output = iommud(&["--sim", "--socket", socket.to_str().unwrap(), "--policy", path_text]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let wanted = format!(
        "iommud: {path_text}:2:14: `denied` will not do here; it has to be `deny` or `identity`\n"
    );
    assert_eq!(error, wanted);
    assert!(!socket.exists());
    fs::remove_file(path).unwrap();
}

#[test]
fn the_example_passes_the_check() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/iommud.ron");
    let output = iommud(&["--check-policy", example]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("{example}: right\n")), "{text}");
    assert_eq!(output.stderr, b"");
    let output = iommud(&["--check-policy", "/nonexistent/iommud.ron"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("iommud: /nonexistent/iommud.ron: "), "{error}");
}

#[test]
fn the_check_says_which_limits_limit_nothing() {
    let path = file("idle", "(clients: [(uid: 1000, quotas: (buffers: 5))])");
    let output = iommud(&["--check-policy", path.to_str().unwrap()]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  the limits of user 1000 limit nothing: "), "{text}");
    fs::remove_file(path).unwrap();
}

/// What the daemon says until it serves, with this policy on a simulated machine.
fn start(name: &str, policy: &str) -> Vec<String> {
    let path = file(name, policy);
    let socket = env::temp_dir().join(format!("iommud-{}-{name}.sock", process::id()));
    let options =
        ["--sim", "--socket", socket.to_str().unwrap(), "--policy", path.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_iommud"));
    let mut daemon = command.args(options).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(daemon.stderr.take().unwrap()).lines().map(Result::unwrap);
    let lines = lines.take_while(|line| line != "iommud: ready").collect();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    fs::remove_file(path).unwrap();
    let _ = fs::remove_file(socket);
    lines
}

#[test]
fn a_unit_that_is_not_there_is_not_said_to_be_ignored() {
    let lines = start("slip", "(ignore_units: { 0x1234000: \"a slip of the pen\" })");
    let wanted = "iommud: POLICY: the policy ignores a unit at 0x1234000, and there is none";
    assert!(lines.iter().any(|line| line == wanted), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("IGNORED")), "{lines:?}");
    let lines = start("there", "(ignore_units: { 0xfed90000: \"its firmware hangs\" })");
    let wanted = "iommud: POLICY: the unit at 0xfed90000 is IGNORED, and what is behind it NOT CONFINED: its \
                  firmware hangs";
    assert!(lines.iter().any(|line| line == wanted), "{lines:?}");
}

#[test]
fn what_is_not_confined_is_named_at_the_start() {
    let named = |name, policy, why| {
        let lines = start(name, policy);
        let wanted = format!("iommud: NOT CONFINED: 0000:00:02.0: {why}");
        assert!(lines.contains(&wanted), "{lines:?}");
    };
    let open = "it reaches all memory, for the policy says so";
    named("open", "(default: identity)", open);
    let unused = "it reaches everything, for the IOMMU in front of it is not used";
    named("unused", "(ignore_units: { 0xfed90000: \"it hangs\" })", unused);
    let lines = start("closed", "(default: deny)");
    assert!(!lines.iter().any(|line| line.contains("NOT CONFINED")), "{lines:?}");
}
