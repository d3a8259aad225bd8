//! Every kind of buffer, on simulated machines with iommud's own service.

use dma_types::PciAddress;
use edud::Bar;
use edud::daemon::{Driver, Error, buffers};
use libdma::Iova;
use simulated::{Machine, Shared, edu, second_edu};

/// At least as long as a transfer takes, in nanoseconds.
const TRANSFER: u64 = 1_000_000_000;

/// The registers of a simulated device: where its BAR 0 is.
struct Registers {
    service: Shared,
    start: u64,
}

impl Registers {
    fn of(machine: &Machine, function: PciAddress) -> Self {
        let service = machine.service.clone();
        let assigned = service.lock().platform().machine_mut().assigned_bar(function, 0);
        Self { service, start: assigned.expect("edu has a BAR 0").0 }
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        let service = self.service.lock();
        let mut machine = service.platform().machine_mut();
        // Whoever looks at the device has waited.
        let later = machine.now() + TRANSFER;
        machine.advance(later);
        machine.mmio_read(self.start + offset as u64, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let service = self.service.lock();
        service.platform().machine_mut().mmio_write(self.start + offset as u64, width, value);
    }
}

impl Bar for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, 8)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, 8, value);
    }
}

/// A driver of the first device, with these registers.
pub(crate) fn driver(machine: &Machine, registers: PciAddress) -> Driver {
    let registers = Registers::of(machine, registers);
    Driver::new(machine.open(), Box::new(registers)).unwrap()
}

#[test]
fn data_goes_to_the_device_and_back_by_every_kind_of_buffer() {
    for machine in Machine::each() {
        let mut out = Vec::new();
        buffers::run(&mut driver(&machine, edu()), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 8, "{text}");
        for line in text.lines() {
            assert!(line.ends_with(": 1500 bytes to the device and back: intact"), "{line}");
        }
        assert_eq!(machine.usage().live_runs, 0);
        machine.check();
    }
}

#[test]
fn data_that_another_device_moves_does_not_arrive() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let error = buffers::run(&mut driver(&machine, second_edu()), &mut Vec::new()).unwrap_err();
        let Error::Corrupt { index, iova, .. } = error else { panic!("{error}") };
        assert!(index < 2 && iova > Iova::new(0), "{error}");
    }
}
