//! A crash is never a hang: each of these ends the machine, with exit status 37 and the case's name in the
//! line that says why. They are for whoever doubts the rig.

use core::hint::black_box;
use core::ptr;

use crate::cases;
use crate::harness::{Context, Outcome, Suite};

/// The suite.
pub const SUITE: Suite = Suite { name: "crash", cases: cases![page_zero, stack_overflow, panic] };

fn page_zero(_: &mut Context) -> Outcome {
    // SAFETY: none: page zero is not mapped, and the exception does not come back.
    unsafe { ptr::without_provenance_mut::<u8>(black_box(8)).write_volatile(1) };
    Ok(())
}

fn stack_overflow(_: &mut Context) -> Outcome {
    fn deeper(depth: u64) -> u64 {
        let room = black_box([depth; 64]);
        if depth == u64::MAX { 0 } else { deeper(depth + 1) + room[0] }
    }
    black_box(deeper(black_box(0)));
    Ok(())
}

fn panic(_: &mut Context) -> Outcome {
    panic!("on purpose")
}
