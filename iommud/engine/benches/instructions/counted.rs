//! What is counted, and by whom.

use std::process::Command;

use crate::Operation;

/// How often each operation is counted, after as many that are not.
pub(crate) const ROUNDS: u64 = 100;

/// Does what is counted. Callgrind knows this function by its name.
#[inline(never)]
pub(crate) fn measured<R>(what: impl FnOnce() -> R) -> R {
    what()
}

/// Callgrind forgets here what it has counted: before, what the unit did was all that was.
#[inline(never)]
fn warmed_up() {
    core::hint::black_box(());
}

/// Does `round` often enough, of which it has counted what it wants by the function that it is given.
pub(crate) fn rounds(mut round: impl FnMut(&mut dyn FnMut(&mut dyn FnMut()))) {
    for _ in 0..ROUNDS {
        round(&mut |what| what());
    }
    warmed_up();
    for _ in 0..ROUNDS {
        round(&mut |what| measured(what));
    }
}

/// Counts each operation, and prints a table.
pub(crate) fn print(operations: impl Iterator<Item = Operation>) {
    let nothing = count("nothing").expect("valgrind must be installed");
    println!("| operation | instructions |\n| --- | ---: |");
    for operation in operations.filter(|it| it.name != "nothing") {
        let counted = count(operation.name).expect("what valgrind says").saturating_sub(nothing);
        let each = counted as f64 / (ROUNDS * operation.per) as f64;
        println!("| {} | {each:.1} |", operation.name);
    }
}

/// How many instructions an operation takes in all its rounds. What the unit does is not counted.
fn count(name: &str) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=*counted::measured*", "--toggle-collect=*unit_works*"])
        .arg("--zero-before=*counted::warmed_up*")
        .arg(program)
        .args(["--once", name])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}");
    let (_, rest) = said.split_once("Collected :")?;
    rest.split_whitespace().next()?.parse().ok()
}
