//! What is passed on to others.

use libdma::protocol::Rights;
use libdma::{Access, Buffer, Device, Error, SharedBuffer};
use simulated::{Machine, second_edu};

use crate::trials::{Trials, with};

const RIGHTS: Rights = Rights::BUFFER;

fn two(machine: &Machine, device: &Device) -> (Buffer, Device, Device) {
    let second = machine.open_at(second_edu()).unwrap();
    machine.make_tables(&second);
    let buffer = device.allocate(8192, Some(Access::ReadWrite), "frames").unwrap();
    buffer.write(0, b"frame").unwrap();
    (buffer, device.clone(), second)
}

type State = (Buffer, Device, Device);

fn holds(_: &Machine, (buffer, ..): &State) {
    let mut out = [0; 5];
    buffer.read(0, &mut out).unwrap();
    assert_eq!(&out, b"frame");
}

#[test]
fn r7_what_cannot_be_passed_on_is_nobody_elses() {
    let mut trials = Trials::begin();
    trials.all("share", two, with(|(buffer, ..): &mut State| buffer.share(RIGHTS)), holds);
    trials.all(
        "share, and map it again",
        two,
        with(|(buffer, ..): &mut State| SharedBuffer::from_handle(buffer.share(RIGHTS)?)),
        holds,
    );
    trials.all(
        "attach",
        two,
        with(|(buffer, _, second): &mut State| buffer.attach(second, Access::Read, "frames")),
        holds,
    );
    trials.all(
        "attach what is shared",
        |machine, device| {
            let state = two(machine, device);
            (SharedBuffer::from_handle(state.0.share(RIGHTS).unwrap()).unwrap(), state)
        },
        with(|(shared, (_, _, second)): &mut (SharedBuffer, State)| {
            shared.attach(second, Access::Read, "frames")
        }),
        |machine, (_, state)| holds(machine, state),
    );
    trials.all(
        "offer registers",
        two,
        with(|(_, first, _): &mut State| first.offer_bar(0, 0, 4096, Access::Write)),
        holds,
    );
    trials.all(
        "offer and attach registers",
        two,
        with(|(_, first, second): &mut State| {
            let ticket = first.offer_bar(0, 0, 4096, Access::Write)?;
            second.attach(&ticket, Access::Write, "doorbells")
        }),
        holds,
    );
}

#[test]
fn r7_an_attachment_that_failed_leaves_no_ticket() {
    for machine in Machine::each() {
        let device = machine.open();
        let (buffer, _, mut second) = two(&machine, &device);
        // The buffer is longer than all that there is below the mask.
        let roomy = second.limits();
        second.set_dma_mask(13).unwrap();
        for _ in 0..1000 {
            let error = buffer.attach(&second, Access::Read, "frames").unwrap_err();
            assert_eq!(error, Error::NoAddressSpace);
        }
        second.set_limits(roomy);
        drop(buffer.attach(&second, Access::Read, "frames").unwrap());
    }
}
