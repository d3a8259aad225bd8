//! Opening devices, and what is asked of them.

use std::sync::Arc;

use libdma::protocol::Rights;
use libdma::transport::Transport;
use libdma::{Access, Device, Events, Iova};
use simulated::{Machine, edu, second_edu};

use crate::trials::{Trials, anything, device, with};

#[test]
fn r7_a_device_that_cannot_be_opened_is_nobodys() {
    let mut trials = Trials::begin();
    trials.all(
        "open",
        |machine, _| machine.transport(),
        with(|transport: &mut Arc<dyn Transport>| Device::open(transport.clone(), second_edu())),
        anything,
    );
    trials.all(
        "derive",
        device,
        with(|device: &mut Device| device.derive(Rights::INSPECT)),
        anything,
    );
    trials.all(
        "derive and take over",
        device,
        with(|device: &mut Device| Device::from_handle(device.derive(Rights::DEVICE)?)),
        anything,
    );
}

/// Has the device denied this many accesses, to a page each.
fn denied(machine: &Machine, count: u64) {
    for page in 1..=count {
        machine.reads(edu(), Iova::new(page << 20), 1).unwrap_err();
        machine.usage();
    }
}

#[test]
fn r7_faults_that_cannot_be_read_can_be_read_later() {
    let mut trials = Trials::begin();
    trials.all("events", device, with(|device: &mut Device| device.events()), anything);
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let _block = device.coherent("some").access(Access::Read).value::<u64>().unwrap();
        for step in 0..3 {
            let _ = device.events().unwrap();
            denied(&machine, 40);
            machine.client.refuse(step, 1, libdma::Error::TimedOut);
            let first = device.events();
            machine.client.refuse_none();
            let read = [first.unwrap_or_default(), device.events().unwrap()];
            let faults = read.iter().flat_map(Events::faults);
            let pages: Vec<_> = faults.map(|it| it.address.get() >> 20).collect();
            assert_eq!(pages, (1..=40).collect::<Vec<_>>(), "request {step}");
        }
    }
}
