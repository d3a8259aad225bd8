//! Every order, and how many there were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;

use crate::iommud::Iommud;

/// How often a thread is interrupted at most where it could go on. Two suffice for nearly all races that there are (Musuvathi
/// and Qadeer, "Iterative context bounding", PLDI 2007).
const INTERRUPTIONS: usize = 3;

/// Runs it in every order. In the end nothing is left.
pub(crate) fn all(name: &str, run: impl Fn(&Arc<Iommud>) + Send + Sync + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.max_branches = 20_000;
    libdma::check::turn_off();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let iommud = Iommud::new(true);
        run(&iommud);
        assert_eq!(iommud.given(), (0, 0), "something is left");
    });
    println!("{name}: {} orders", count.load(Ordering::Relaxed));
}
