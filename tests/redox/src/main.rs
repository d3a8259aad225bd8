//! The self-test of a booted Redox: it uses the real iommud, iommuctl and edud as processes, and writes one line for
//! each case and one with their number at the end, which `tests/run t4` reads from the serial console and people from
//! theirs.
//!
//! It learns from iommud which IOMMU the machine has, and skips what that machine cannot show, with the reason. Its
//! device is QEMU's `edu`. Each case is a process of its own, so that one may panic, hang or leave processes behind
//! without harm to the next.

#![forbid(unsafe_code)]

mod cases;
mod chain;
mod console;
mod counting;
mod driving;
mod empty;
mod lent;
mod machine;
mod needs;
mod passing;
mod prisoner;
mod processes;
mod rogue;
mod run;
mod second;

use std::process::ExitCode;

use agent::run::CASE;

use crate::counting::BENCH;
use crate::empty::EMPTY;
use crate::lent::LENT;
use crate::prisoner::PRISONER;
use crate::second::{ENTERS, SENT, TAKEN};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run::all(),
        [CASE, name] => run::one(name),
        [LENT] => lent::look(),
        [SENT, pipe, device, bits] => second::run(second::sent(pipe, device, bits)),
        [TAKEN, pipe, device, bits] => second::run(second::taken(pipe, device, bits)),
        [ENTERS, ticket, device] => second::run(second::enters(ticket, device)),
        [BENCH] => second::run(counting::run()),
        [EMPTY, name] => second::run(empty::serve(name)),
        [PRISONER, ref paths @ ..] => prisoner::open(paths),
        _ => {
            eprintln!("usage: iommu-selftest            runs all cases, one after the other");
            eprintln!("       iommu-selftest bench      counts what requests to iommud take");
            eprintln!("       iommu-selftest case NAME  runs one, with NAME one of:");
            for check in cases::all() {
                eprintln!("  {}", check.spec.name);
            }
            ExitCode::from(2)
        }
    }
}
