//! What is printed of the faults that the device's handle tells of.

use std::time::Duration;

use driver_platform::Error;
use edud::daemon::denied;
use libdma::Handle;

use crate::stand_in::{Guard, driver};

fn report(wait_readable: impl Fn(&Handle, Duration) -> Result<bool, Error>) -> String {
    let mut out = Vec::new();
    denied::report(driver(Guard::Firm).device(), wait_readable, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn faults_are_told_as_sentences_with_how_many_are_missing() {
    let text = report(|_, patience| Ok(!patience.is_zero()));
    let expected = "the device's handle tells of 3 more blocked accesses by number alone\n\
                    the device's handle tells: 0000:00:02.0 was denied a write to 0x8002010: \
                    the page is not mapped for writing; that was offset 0x10 of buffer \"ring\", which was mapped for \
                    writing and unmapped 15 µs before\n";
    assert_eq!(text, expected);
}

#[test]
fn without_an_event_it_is_said_that_there_was_none() {
    let text = report(|_, _| Ok(false));
    assert_eq!(text, "the device's handle tells of no fault: this IOMMU has recorded none\n");
}
