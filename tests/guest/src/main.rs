//! The agent in the Linux guest: init, which prepares the machine and starts each case as a process of
//! its own, so that a case may panic, hang or leave processes behind without harm to the next.

mod addresses;
mod bench;
mod cases;
mod devices;
mod dma;
mod domains;
mod held;
mod huge_pages;
mod init;
mod map;
mod messages;
mod other;
mod physical;
mod programs;
mod reports;
mod revoking;
mod sharing;
mod traces;
mod unit;

use std::process::ExitCode;

use agent::failure;
use failure::Outcome;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["case", name] => cases::run(name),
        [sharing::WORD] => ended(sharing::other()),
        [domains::WORD] => ended(domains::other()),
        [messages::WORD] => ended(messages::other()),
        [held::WORD, unit] => ended(held::run(unit)),
        // Linux puts words of its command line that it does not know before those meant for init.
        [.., bench::WORD] if std::process::id() == 1 => init::bench(),
        [bench::WORD] => ended(bench::run()),
        [.., "shell"] if std::process::id() == 1 => init::shell(),
        [.., "without-iommu"] if std::process::id() == 1 => init::cases(cases::WITHOUT_IOMMU),
        _ if std::process::id() == 1 => init::cases(cases::CASES),
        _ => {
            eprintln!("usage: guest case NAME, with NAME one of:");
            for case in cases::all() {
                eprintln!("  {}", case.name);
            }
            ExitCode::from(2)
        }
    }
}

/// How another process ended, which says so by its standard output.
fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{}", failure.0);
            ExitCode::FAILURE
        }
    }
}
