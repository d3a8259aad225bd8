//! `Device::handed`: the device of a process that was started with its handle.

use std::thread;

use libdma::{Device, Dma, Error, HandedError};

use crate::driver::{as_driver, connect, report, with_variable};
use crate::rig::{edu, eventually};
use crate::vendor::Vendor;

both! {
    it_is_the_device_that_was_handed_whoever_asks_and_closed_with_the_last,
    it_is_the_device_of_dma,
}

fn it_is_the_device_that_was_handed_whoever_asks_and_closed_with_the_last(vendor: Vendor) {
    as_driver(vendor, || {
        let asked = (0..4).map(|_| thread::spawn(|| Device::handed().unwrap()));
        let asked: Vec<_> =
            asked.collect::<Vec<_>>().into_iter().map(|it| it.join().unwrap()).collect();
        let mut device = Device::handed().unwrap();
        assert_eq!(device.address(), edu());
        assert!(asked.iter().all(|other| other.generation() == device.generation()));
        device.set_dma_mask(28).unwrap();
        assert!(
            Device::handed().unwrap().highest_address() > device.highest_address(),
            "limits are each one's own"
        );
        // A buffer is the device's for as long as it lives.
        let buffer = device.allocate(4096, None, "held").unwrap();
        drop((asked, device));
        buffer.write(0, &[1]).unwrap();
        drop(buffer);
        assert_eq!(Device::handed().map(drop), Err(HandedError::Closed));
        assert_eq!(Device::handed().map(drop), Err(HandedError::Closed));
    });
}

fn it_is_the_device_of_dma(vendor: Vendor) {
    as_driver(vendor, || {
        let dma = Dma::new(7u64).unwrap();
        let device = Device::handed().unwrap();
        let buffer = device.allocate(4096, Some(libdma::Access::Read), "of both").unwrap();
        assert_ne!(buffer.iova().unwrap().get(), dma.physical() as u64);
        assert_eq!(report("mappings").len(), 2);
        drop((buffer, dma));
        eventually(|| report("mappings").is_empty().then_some(()));
        let busy = Device::open(connect(), edu()).map(drop);
        assert_eq!(busy, Err(Error::DeviceBusy), "`Dma` holds it to the end");
    });
}

#[test]
fn r1_without_a_handle_there_is_no_device_and_the_reason_stays() {
    for (value, error) in [
        (None, HandedError::NotSet),
        (Some("none"), HandedError::Unconfined),
        (Some("7x"), HandedError::Meaningless("7x".into())),
        (Some("4321"), HandedError::NotHanded(4321)),
    ] {
        let test = || {
            let first = Device::handed().map(drop).unwrap_err();
            assert_eq!(Device::handed().map(drop), Err(first.clone()));
            println!("{first:?}");
        };
        let Some(output) = with_variable(value, test) else { return };
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&format!("{error:?}")), "{said}");
    }
}
