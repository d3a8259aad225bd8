//! How many instructions the hot path takes, as callgrind counts them: to the digit the same in each run.
//!
//! `cargo bench -p iommu-engine --bench instructions` runs this program under valgrind once for each operation and prints a
//! table. With `--once NAME` it does that operation, for a look by `callgrind_annotate`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`counted`] | what is counted and what is not, and valgrind |
//! | [`engine`] | maps and unmaps through the engine |
//! | [`large`] | a domain in which many large pages are mapped |
//! | [`tables`] | in page tables alone |
//! | [`iova`] | addresses alone |

mod counted;
mod engine;
#[path = "../support/frames.rs"]
mod frames;
mod iova;
mod large;
#[path = "../support/machine.rs"]
mod machine;
mod tables;

/// An operation to be counted.
struct Operation {
    name: &'static str,
    /// How often a row's unit of work is done in one counted call: entries in a bulk map.
    per: u64,
    run: fn(),
}

fn operations() -> impl Iterator<Item = Operation> {
    engine::OPERATIONS
        .into_iter()
        .chain(large::OPERATIONS)
        .chain(tables::OPERATIONS)
        .chain(iova::OPERATIONS)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--once", name] => {
            let operation = operations().find(|it| it.name == name).expect("an operation");
            (operation.run)();
        }
        _ if arguments.iter().any(|it| it == "--bench") => counted::print(operations()),
        // A test run of benches: that all of them work.
        _ => operations().for_each(|operation| (operation.run)()),
    }
}
