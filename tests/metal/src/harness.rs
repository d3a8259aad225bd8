//! Choosing cases, running them, reporting, ending.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dma_types::PhysAddr;
use spin::Mutex;

use crate::cpu::console::print_line;
use crate::cpu::exit::{Exit, exit};
use crate::cpu::traps::report_exceptions;
use crate::memory::layout;
use crate::memory::paging::unmap_page_zero;
use crate::memory::physical::copy_at_start;
use crate::memory::spare;
use crate::platform::Metal;
use crate::start_info::StartInfo;

/// Why a case failed, in words.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: core::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("{error}"))
    }
}

/// What a case, or a step of it, comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Ends a case with a sentence, unless something holds.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::harness::Failure(alloc::format!($($sentence)+)));
        }
    };
}

/// What a case has to work with.
#[derive(Debug)]
pub struct Context {
    /// The machine, but while it is [lent](Self::lend).
    platform: Option<Metal>,
    /// What the boot loader said of it.
    pub start_info: StartInfo,
}

impl Context {
    /// The machine.
    pub fn platform(&mut self) -> &mut Metal {
        self.platform.as_mut().expect("the machine is lent and was not given back")
    }

    /// Lends the machine to something that wants to own it, such as a service, and takes it back.
    pub fn lend<T>(&mut self, to: impl FnOnce(Metal) -> (Metal, T)) -> T {
        let platform = self.platform.take().expect("the machine is lent and was not given back");
        let (platform, result) = to(platform);
        self.platform = Some(platform);
        result
    }
}

/// One property, and how to show it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// One word, named for the property.
    pub name: &'static str,
    /// Shows it, or says what is wrong. The machine is left as it was found.
    pub run: fn(&mut Context) -> Outcome,
}

/// Cases that go together.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// One word.
    pub name: &'static str,
    /// The cases, in the order they run.
    pub cases: &'static [Case],
}

/// Builds [`Case`]s from functions, each named as its function.
#[macro_export]
macro_rules! cases {
    ($($function:ident),+ $(,)?) => {
        &[$($crate::harness::Case { name: stringify!($function), run: $function }),+]
    };
}

/// The case that is running, for [`crash`] to name.
static RUNNING: Mutex<Option<(&'static str, &'static str)>> = Mutex::new(None);

/// The whole life of the guest: takes the machine over, runs the cases that the command line names, and
/// ends.
///
/// # Safety
///
/// Called once, on the stack of [`layout`], with the addresses below 4 GiB mapped to themselves.
pub unsafe fn main(start_info: u32, suites: &'static [Suite]) -> ! {
    report_exceptions();
    let address = PhysAddr::new(start_info.into());
    // SAFETY: the entry code leaves page zero mapped.
    let start_info = StartInfo::read(address, |at, bytes| unsafe { copy_at_start(at, bytes) });
    // SAFETY: that was all there was to read in it, and the machine, with its window, comes later.
    unsafe { unmap_page_zero() };
    let context = start_info.map_err(Failure::from).and_then(|start_info| {
        check_memory(&start_info)?;
        spare::find(&start_info.memory);
        // SAFETY: this is the one call, and the memory is there and mapped.
        let platform = unsafe { Metal::new(&start_info) }?;
        Ok(Context { platform: Some(platform), start_info })
    });
    let how = match context {
        Ok(context) => run(context, suites),
        Err(Failure(why)) => {
            print_line(format_args!("the guest cannot run here: {why}"));
            Exit::Failed
        }
    };
    exit(how)
}

/// Checks that there is memory wherever the layout wants some.
fn check_memory(start_info: &StartInfo) -> Outcome {
    let all = layout::ALL;
    let there = start_info.memory.iter().any(|range| range.holds(all.start, all.bytes));
    require!(there, "the guest's {} bytes from {} on are not all memory", all.bytes, all.start);
    Ok(())
}

/// Runs the cases that the command line names.
fn run(mut context: Context, suites: &'static [Suite]) -> Exit {
    let chosen = match choose(&context.start_info.command_line, suites) {
        Ok(chosen) => chosen,
        Err(Failure(why)) => {
            print_line(format_args!("{why}; there are:"));
            for (suite, case) in all(suites) {
                print_line(format_args!("    {suite}/{}", case.name));
            }
            return Exit::Failed;
        }
    };
    let mut failed = 0;
    for (suite, case) in &chosen {
        *RUNNING.lock() = Some((suite, case.name));
        let outcome = run_case(case, &mut context);
        *RUNNING.lock() = None;
        let name = case.name;
        match outcome {
            Ok(()) => print_line(format_args!("case {suite}/{name} ... ok")),
            Err(Failure(why)) => {
                failed += 1;
                print_line(format_args!("case {suite}/{name} ... FAILED: {why}"));
            }
        }
    }
    print_line(format_args!("{} passed, {failed} failed, 0 skipped", chosen.len() - failed));
    if failed == 0 { Exit::Passed } else { Exit::Failed }
}

/// Runs one case, and sees to it that it gives back what it took.
fn run_case(case: &Case, context: &mut Context) -> Outcome {
    let before = context.platform().in_use();
    (case.run)(context)?;
    let after = context.platform().in_use();
    require!(before == after, "it leaks: in use before {before}, after {after}");
    Ok(())
}

/// Every case there is, with its suite's name.
fn all(suites: &'static [Suite]) -> impl Iterator<Item = (&'static str, &'static Case)> {
    suites.iter().flat_map(|suite| suite.cases.iter().map(|case| (suite.name, case)))
}

/// The cases that these words name, in order.
fn choose(words: &str, suites: &'static [Suite]) -> Outcome<Vec<(&'static str, &'static Case)>> {
    let mut chosen = Vec::new();
    for word in words.split_whitespace() {
        let before = chosen.len();
        chosen.extend(all(suites).filter(|(suite, case)| {
            word == *suite || word.split_once('/') == Some((*suite, case.name))
        }));
        require!(chosen.len() > before, "there is no suite or case {word:?}");
    }
    require!(!chosen.is_empty(), "the command line names no suite or case");
    Ok(chosen)
}

/// Ends the machine after a panic or an exception, blaming the case that was running.
pub fn crash(why: fmt::Arguments<'_>) -> ! {
    match RUNNING.try_lock().and_then(|running| *running) {
        Some((suite, name)) => print_line(format_args!("case {suite}/{name} ... FAILED: {why}")),
        None => print_line(format_args!("the guest crashed: {why}")),
    }
    exit(Exit::Crashed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &mut Context) -> Outcome {
        Ok(())
    }

    static SUITES: [Suite; 2] = [
        Suite {
            name: "a",
            cases: &[Case { name: "x", run: nothing }, Case { name: "y", run: nothing }],
        },
        Suite { name: "b", cases: cases![nothing] },
    ];

    fn names(words: &str) -> Result<String, String> {
        let chosen = choose(words, &SUITES).map_err(|Failure(why)| why)?;
        Ok(chosen.iter().map(|(suite, case)| format!("{suite}/{} ", case.name)).collect())
    }

    #[test]
    fn words_name_suites_and_cases() {
        assert_eq!(names("a").as_deref(), Ok("a/x a/y "));
        assert_eq!(names(" b a/y\n").as_deref(), Ok("b/nothing a/y "));
    }

    #[test]
    fn a_word_that_names_nothing_is_refused_and_so_is_no_word() {
        for words in ["", " ", "a/z", "a b c", "x", "a/"] {
            assert!(names(words).is_err(), "{words:?}");
        }
    }
}
