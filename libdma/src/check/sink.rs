//! Where reports go.

use spin::Mutex;

use super::Report;

/// What a driver does with a report.
type Sink = fn(&Report);

static SINK: Mutex<Sink> = Mutex::new(print);

/// Has reports handed to this function instead of printed, on the thread that did what is reported, while libdma holds
/// no lock: it may call whatever it likes of libdma. Threads do not wait for each other with it. A report is never a
/// panic; who wants one panics in the function.
pub fn on_report(sink: fn(&Report)) {
    *SINK.lock() = sink;
}

/// Hands a report over.
#[cold]
pub(super) fn report(report: &Report) {
    let sink = *SINK.lock();
    sink(report);
}

/// Prints to standard error, where there is such a thing.
fn print(report: &Report) {
    #[cfg(any(
        all(target_os = "linux", feature = "socket"),
        all(target_os = "redox", feature = "scheme")
    ))]
    eprintln!("libdma: {report}");
    let _ = report;
}
