//! Each request fails once, and nothing is left of it.

use libdma::{Error, FromDevice, ScatterList};
use simulated::Machine;

use crate::moving::device_writes;

#[test]
fn r7_a_list_is_mapped_whole_or_not_at_all() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx").strict();
        let mut failed = 0;
        for step in 0.. {
            let (mut first, mut second, mut lent) = ([0; 64], [0; 64], stream.buffer(64).unwrap());
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut first).unwrap();
            list.lend(&mut lent, 0..64).unwrap();
            list.push_slice_mut(&mut second).unwrap();
            let before = machine.usage();
            machine.client.refuse(step, 1, Error::OutOfMemory);
            let Err(refused) = list.map() else { break };
            machine.client.refuse_none();
            assert_eq!(
                (refused.error, machine.usage()),
                (Error::OutOfMemory, before),
                "step {step}"
            );
            // It can be tried again.
            let mapped = refused.into_kept().map().unwrap();
            device_writes(&machine, &mapped, &[5; 192]);
            drop(mapped);
            assert_eq!((first, second), ([5; 64], [5; 64]));
            failed += 1;
        }
        machine.client.refuse_none();
        assert!(failed > 2);
        machine.check();
    }
}

#[test]
fn r7_an_unmap_that_fails_leaves_the_list_the_devices() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mut slice = [0; 5];
        let mut list = ScatterList::new(&stream);
        list.push_slice_mut(&mut slice).unwrap();
        list.push(stream.buffer(5).unwrap()).unwrap();
        let mapped = list.map().unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        let refused = mapped.unmap().unwrap_err();
        assert_eq!(refused.error, Error::TimedOut);
        let mapped = refused.into_kept();
        device_writes(&machine, &mapped, b"still here");
        let mut out = [0; 10];
        let list = mapped.unmap().unwrap();
        list.read(0, &mut out).unwrap();
        assert_eq!(&out, b"still here");
        drop(list);
        machine.check();
    }
}
