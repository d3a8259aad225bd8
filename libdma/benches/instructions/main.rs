//! What libdma's operations take, in instructions and in time, with the service called directly on a simulated machine; or
//! alone, with an iommud that does next to nothing.
//!
//! `cargo bench -p libdma` prints a line for each row. Instructions are counted by callgrind, where that is installed: a row is
//! run with N rounds and with 2 N, and the difference is what N rounds take. `cargo bench -p libdma -- ROW` shows those
//! whose name has this in it; `cargo bench -p libdma -- --rounds N ROW` does nothing but that row, for a profiler to look at.

#[cfg(target_os = "linux")]
mod alone;
#[cfg(target_os = "linux")]
mod rows;

#[cfg(target_os = "linux")]
fn main() {
    use std::hint::black_box;
    use std::process::Command;
    use std::time::Instant;

    /// How many rounds are run for the first count.
    const ROUNDS: usize = 1000;

    libdma::check::turn_off();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    if let [flag, rounds, name] = arguments.as_slice()
        && flag == "--rounds"
    {
        let row = rows::ROWS.iter().find(|row| row.name == name).expect("the name of a row");
        (row.run)(black_box(rounds.parse().expect("a number of rounds")), &mut || ());
        return;
    }
    let instructions = |name: &str, rounds: usize| -> Option<i64> {
        let program = std::env::current_exe().ok()?;
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["--rounds", &rounds.to_string(), name])
            .output()
            .ok()?;
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        let count = report.lines().find_map(|line| line.split_once("Collected : "))?.1;
        count.trim().parse().ok().filter(|_| output.status.success())
    };
    println!("{:<26} {:>14} {:>10}", "operation", "instructions", "ns");
    let named = |row: &&rows::Row| {
        arguments.is_empty() || arguments.iter().any(|it| row.name.contains(it.as_str()))
    };
    for row in rows::ROWS.iter().filter(named) {
        let counts = instructions(row.name, ROUNDS).zip(instructions(row.name, 2 * ROUNDS));
        let each = counts.map(|(once, twice)| (twice - once) as f64 / ROUNDS as f64);
        let (mut start, rounds) = (Instant::now(), 100 * ROUNDS);
        (row.run)(rounds, &mut || start = Instant::now());
        let time = start.elapsed().as_nanos() as f64 / rounds as f64;
        let each = each.map_or("-".to_owned(), |each| format!("{each:.1}"));
        println!("{:<26} {each:>14} {time:>10.1}", row.name);
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
