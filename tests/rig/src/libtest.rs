//! What `cargo test` prints, counted. (Its JSON form needs a nightly compiler.)

use agent::tally::Tally;

/// One test program, or one crate's doc tests, and how its tests went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Package and source, as cargo names them.
    pub name: String,
    /// Its tests.
    pub tally: Tally,
    /// The names of those that failed.
    pub failures: Vec<String>,
    /// What the failing tests wrote.
    pub output: Vec<String>,
    /// It has come to an end: a program that crashes prints no result.
    pub finished: bool,
}

/// Finds the test programs in the output of `cargo test`, standard output and error in one.
pub fn programs(lines: &[String]) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    let mut telling = false;
    for line in lines {
        if let Some(name) = heading(line) {
            programs.push(Program { name, ..Program::default() });
            telling = false;
            continue;
        }
        let Some(program) = programs.last_mut() else { continue };
        if let Some(tally) = result(line) {
            program.tally += tally;
            program.finished = true;
            telling = false;
        } else if let Some(name) = failed_test(line) {
            program.failures.push(name.to_owned());
        } else if line == "failures:" {
            telling = true;
        } else if telling {
            program.output.push(line.clone());
        }
    }
    programs
}

/// `     Running unittests src/lib.rs (target/debug/deps/libdma-0123456789abcdef)` and `   Doc-tests libdma`.
fn heading(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} doc"));
    }
    let (source, program) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let program = program.rsplit('/').next().unwrap_or(program);
    let package = program.rsplit_once('-').map_or(program, |(package, _hash)| package);
    Some(format!("{package} {}", source.strip_prefix("unittests ").unwrap_or(source)))
}

/// `test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
fn result(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim_end().parse().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

/// `test a::b ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    Some(line.strip_prefix("test ")?.split_once(" ... FAILED")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
   Compiling libdma v0.1.0 (/w/libdma)
    Finished `test` profile [unoptimized + debuginfo] target(s) in 1.02s
     Running unittests src/lib.rs (target/debug/deps/dma_types-00aa11bb22cc33dd)

running 3 tests
test address::tests::a ... ok
test b ... ignored, too slow here
test c ... FAILED

failures:

---- c stdout ----
assertion failed: 1 == 2


failures:
    c

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p dma-types --lib`
     Running tests/sim.rs (target/debug/deps/sim-0123456789abcdef)

running 2 tests
error: test failed, to rerun pass `-p iommud --test sim`

Caused by:
  process didn't exit successfully: `/t/sim-0123456789abcdef` (signal: 6, SIGABRT: process abort signal)
   Doc-tests dma_types

running 1 test
test libdma/types/src/address.rs - address::PhysAddr (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s

running 2 tests
test libdma/types/src/address.rs - address (line 9) - compile fail ... ok
test libdma/types/src/address.rs - address (line 19) - compile fail ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s
";

    #[test]
    fn every_program_is_counted_and_a_crash_is_seen() {
        let lines: Vec<String> = OUTPUT.lines().map(String::from).collect();
        let programs = programs(&lines);
        let names: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["dma_types src/lib.rs", "sim tests/sim.rs", "dma_types doc"]);
        let finished: Vec<_> = programs.iter().map(|program| program.finished).collect();
        assert_eq!(finished, [true, false, true]);
        assert_eq!(programs[0].tally, Tally { passed: 1, failed: 1, skipped: 1 });
        assert_eq!(programs[0].failures, ["c"]);
        assert!(programs[0].output.iter().any(|line| line.contains("assertion failed")));
        assert_eq!(programs[2].tally, Tally { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn a_broken_build_shows_no_program() {
        let lines = ["error[E0308]: mismatched types", "error: could not compile `x` (lib)"];
        assert_eq!(programs(&lines.map(String::from)), []);
    }
}
