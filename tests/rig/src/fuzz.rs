//! Hostile input of every kind, as many steps as there is time for, and a table of what came of it.

use std::process::ExitCode;

use crate::cargo::cargo;

/// How many steps there are when nobody says: about 25 minutes of one core.
const STEPS: u64 = 100_000_000;

/// Tests that are tried with numbers by the crate `fuzz`.
struct Target {
    package: &'static str,
    /// Where they are: `--lib`, or the name of a test program.
    program: &'static str,
    /// What their names have in them.
    filter: &'static str,
    /// How many trials they make, among which the steps are shared.
    trials: u64,
    /// How many steps of a thousand are theirs.
    share: u64,
}

/// Each target with a share by what its steps take, and by what there is to be found.
#[rustfmt::skip]
const TARGETS: [Target; 13] = [
    Target { package: "iommud", program: "fuzz", filter: "sequences::vtd", trials: 2, share: 150 },
    Target { package: "iommud", program: "fuzz", filter: "sequences::amdvi", trials: 2, share: 120 },
    Target { package: "iommud", program: "fuzz", filter: "messages", trials: 2, share: 290 },
    Target { package: "iommud", program: "fuzz", filter: "records", trials: 2, share: 140 },
    Target { package: "iommud", program: "fuzz", filter: "hardware::vtd", trials: 1, share: 8 },
    Target { package: "iommud", program: "fuzz", filter: "hardware::amdvi", trials: 1, share: 1 },
    Target { package: "iommud", program: "socket", filter: "framing", trials: 1, share: 10 },
    Target { package: "libdma", program: "liar", filter: "r5_", trials: 2, share: 30 },
    Target { package: "iommu-engine", program: "firmware", filter: "_inputs", trials: 6, share: 100 },
    Target { package: "iommu-engine", program: "firmware", filter: "for_changed", trials: 2, share: 1 },
    Target { package: "iommu-engine", program: "faults", filter: "r5_", trials: 2, share: 90 },
    Target { package: "iommud", program: "policy_fuzz", filter: "r5_", trials: 1, share: 30 },
    Target { package: "iommud", program: "--lib", filter: "mcfg::tests::r5_", trials: 1, share: 30 },
];

/// What a trial says of itself when it has found nothing.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    steps: u64,
    inputs: u64,
    /// How many of them were any good, as the target says what is: of `hardware`, for how many a unit was given up.
    good: u64,
    seconds: f64,
}

impl Row {
    /// The row in a line of a test's output, if there is one.
    fn parse(line: &str) -> Option<Self> {
        // Before it comes what the test's name is, where that is on the same line.
        let line = line.rsplit_once(" ... ").map_or(line, |(_, row)| row);
        let (name, rest) = line.split_once(": ")?;
        let (steps, rest) = rest.split_once(" steps, ")?;
        let (inputs, rest) = rest.split_once(" inputs, ")?;
        let (good, rest) = rest.split_once(" of them good, in ")?;
        let (seconds, _) = rest.split_once(" s: ")?;
        let (steps, inputs) = (steps.parse().ok()?, inputs.parse().ok()?);
        let (good, seconds) = (good.parse().ok()?, seconds.parse().ok()?);
        Some(Self { name: name.into(), steps, inputs, good, seconds })
    }
}

/// Takes so many steps, all targets together, and prints the table. `FUZZ_SEED` is the first input of each.
pub fn run(steps: Option<&str>) -> ExitCode {
    let steps = steps.map_or(Some(STEPS), |text| text.replace('_', "").parse().ok());
    let Some(steps) = steps else {
        eprintln!("usage: tests/run fuzz [STEPS]");
        return ExitCode::from(2);
    };
    let (mut taken, mut inputs, mut seconds, mut findings) = (0, 0, 0.0, 0);
    println!(
        "{:24} {:22} {:>11} {:>9} {:>9} {:>8} {:>9}",
        "TARGET", "TRIAL", "STEPS", "INPUTS", "GOOD", "SECONDS", "A SECOND"
    );
    for target in &TARGETS {
        let Target { package, program, filter, trials, share } = *target;
        let each = (steps * share / 1000).div_ceil(trials);
        let mut command = cargo();
        command.args(["test", "--release", "--quiet", "--package", package]);
        match program {
            "--lib" => command.arg("--lib"),
            program => command.args(["--test", program]),
        };
        command.args(["--", "--nocapture", "--test-threads=1", filter]);
        command.env("FUZZ_STEPS", each.to_string());
        let output = match command.output() {
            Ok(output) => output,
            Err(why) => {
                eprintln!("cargo: {why}");
                return ExitCode::FAILURE;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let mut rows = 0;
        for row in text.lines().filter_map(Row::parse) {
            let name = format!("{program}, {filter}");
            let Row { name: trial, steps, inputs: tried, good, seconds: time } = row;
            let rate = steps as f64 / time.max(0.1);
            println!(
                "{name:24} {trial:22} {steps:>11} {tried:>9} {good:>9} {time:>8.1} {rate:>9.0}"
            );
            (taken, inputs, seconds, rows) =
                (taken + steps, inputs + tried, seconds + time, rows + 1);
        }
        if !output.status.success() || rows != trials {
            findings += 1 + trials.saturating_sub(rows + 1);
            println!("{package} {program} {filter}: {rows} of {trials} trials found nothing");
            print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    println!("{:24} {:22} {taken:>11} {inputs:>9} {:>9} {seconds:>8.1}", "all", "", "");
    println!("findings: {findings}");
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_behind_a_tests_name_and_alone() {
        let row =
            "sequences, strict: 5000 steps, 1 inputs, 1 of them good, in 0.1 s: 41349 a second";
        let (steps, inputs, good, seconds) = (5000, 1, 1, 0.1);
        let expected = Row { name: "sequences, strict".into(), steps, inputs, good, seconds };
        assert_eq!(Row::parse(row), Some(expected));
        let behind = format!("test sequences::vtd::r1_to_r7 ... {row}");
        assert_eq!(Row::parse(&behind), Row::parse(row));
        assert_eq!(Row::parse("test result: ok. 4 passed; 0 failed"), None);
    }

    #[test]
    fn all_steps_are_shared_out() {
        assert_eq!(TARGETS.iter().map(|target| target.share).sum::<u64>(), 1000);
    }
}
