//! How many instructions requests take, as callgrind counts them: to the digit the same in each run.
//!
//! `cargo bench -p iommu-service --bench instructions` runs this program under valgrind once for each operation and prints a
//! table. With `--once NAME` it does that operation, for a look by `callgrind_annotate`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`requests`] | maps and unmaps as clients ask for them |
//!
//! The machine is the engine's benches', and they are counted as those are.

#[path = "../../../engine/benches/instructions/counted.rs"]
mod counted;
#[path = "../../../engine/benches/support/frames.rs"]
mod frames;
#[path = "../../../engine/benches/support/machine.rs"]
#[expect(dead_code, reason = "here it is the service that starts the engine")]
mod machine;
mod requests;

/// An operation to be counted.
struct Operation {
    name: &'static str,
    /// How many mappings one counted call makes.
    per: u64,
    run: fn(),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut operations = requests::OPERATIONS.into_iter();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--once", name] => {
            let operation = operations.find(|it| it.name == name).expect("an operation");
            (operation.run)();
        }
        _ if arguments.iter().any(|it| it == "--bench") => counted::print(operations),
        // A test run of benches: that all of them work.
        _ => operations.for_each(|operation| (operation.run)()),
    }
}
