//! The program `iommud` with a policy, right and wrong.
#![cfg(target_os = "linux")]

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command, Output};

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
