//! Mistakes with DMA memory, on simulated machines with iommud's own service.

use edud::daemon::misuse;
use simulated::{Machine, edu};

use crate::buffers::driver;

#[test]
fn each_mistake_is_made_and_told_with_its_places() {
    for machine in Machine::each() {
        let mut driver = driver(&machine, edu());
        let is_confined = driver.device().is_confined();
        let wait_readable = |_: &_, _| {
            machine.service.lock().poll();
            Ok(true)
        };
        let mut out = Vec::new();
        misuse::run(&mut driver, wait_readable, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let (device, drivers) = lines.split_last().unwrap();
        assert_eq!(drivers.len(), 8, "{text}");
        for line in drivers {
            assert!(line.starts_with("mistake: ") && line.contains("misuse.rs:"), "{line}");
        }
        match is_confined {
            true => assert!(device.starts_with("mistake: fault explained: "), "{device}"),
            false => assert!(device.ends_with("no fault is recorded here"), "{device}"),
        }
        machine.check();
    }
}
