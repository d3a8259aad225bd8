//! What the raw layer is told.

use libdma::{Access, RawError, check};
use simulated::Machine;

use crate::{Checked, line};

#[test]
fn what_the_raw_layer_is_told_wrong_is_named_and_no_more() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let mut stream = device.raw_stream("rx");
        let access = Access::Write;
        let (address, made) = (stream.map_zeroes(1500, access).unwrap(), line());
        let (_, at) = (stream.sync_single_for_cpu(address, 1501, access).unwrap_err(), line());
        let (_, read) = (stream.cpu_read(address, &mut [0; 4]).unwrap_err(), line());
        let iova = address.iova();
        let thing = format!(
            "the raw mapping \"rx\" (1500 bytes at {iova} that the device may write, mapped at line \
                {made})"
        );
        assert_eq!(
            checked.said(),
            [
                format!(
                    "wrong size on 0000:00:02.0: of {thing}, 1501 bytes from {iova} on were to be synced at line \
                     {at}, which is beyond its end"
                ),
                format!(
                    "missing sync on 0000:00:02.0: {thing} was to be read by the CPU at line {read}, but has been the \
                     device's since line {made} and was not synced for the CPU"
                ),
            ]
        );
        let (_, first) = (stream.unmap_single(address, 1500, access).unwrap(), line());
        checked.said_nothing();
        let (_, again) = (stream.unmap_single(address, 1500, access).unwrap_err(), line());
        let (_, used) = (stream.sync_single_for_cpu(address, 1, access).unwrap_err(), line());
        assert_eq!(
            checked.said(),
            [
                format!(
                    "double unmap on 0000:00:02.0: {thing} was unmapped at line {first}, and was to be again at line \
                     {again}"
                ),
                format!(
                    "use after unmap on 0000:00:02.0: {thing} was to be synced at line {used}, but was unmapped at \
                     line {first}"
                ),
            ]
        );
        // Synced back, it is the device's since then.
        let (address, made) = (stream.map_zeroes(64, access).unwrap(), line());
        stream.sync_single_for_cpu(address, 64, access).unwrap();
        let (_, since) = (stream.sync_single_for_device(address, 64, access).unwrap(), line());
        let (_, read) = (stream.cpu_read(address, &mut [0; 4]).unwrap_err(), line());
        assert_eq!(
            checked.said(),
            [format!(
                "missing sync on 0000:00:02.0: the raw mapping \"rx\" (64 bytes at {} that the device may write, mapped \
                 at line {made}) was to be read by the CPU at line {read}, but has been the device's since line \
                 {since} and was not synced for the CPU",
                address.iova()
            )]
        );
        stream.unmap_single(address, 64, access).unwrap();
        // A stream may outlive its device; what is mapped in it at its own end is a leak.
        let (address, made) = (stream.map_zeroes(64, access).unwrap().iova(), line());
        drop(device);
        checked.said_nothing();
        drop(stream);
        assert_eq!(
            checked.said(),
            [format!(
                "leak on 0000:00:02.0: the raw mapping \"rx\" (64 bytes at {address} that the device may write, \
                 mapped at line {made}) was not unmapped before its stream was dropped"
            )]
        );
        assert_eq!(check::leaks(), 0);
    }
}

#[test]
fn the_cpu_beyond_the_end_is_named() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let mut stream = device.raw_stream("rx");
        let (address, made) = (stream.map_zeroes(64, Access::ReadWrite).unwrap(), line());
        let iova = address.iova();
        let thing = format!(
            "the raw mapping \"rx\" (64 bytes at {iova} that the device may read and write, mapped at line {made})"
        );
        stream.sync_single_for_cpu(address, 64, Access::ReadWrite).unwrap();
        stream.cpu_read(address, &mut [0; 64]).unwrap();
        checked.said_nothing();
        let (_, read) = (stream.cpu_read(address, &mut [0; 65]).unwrap_err(), line());
        let (_, written) = (stream.cpu_write(address, &[0; 100]).unwrap_err(), line());
        assert_eq!(
            checked.said(),
            [("65", "read", read), ("100", "written", written)].map(|(bytes, act, at)| format!(
                "wrong size on 0000:00:02.0: of {thing}, {bytes} bytes from {iova} on were to be {act} by the CPU \
                 at \
                 line {at}, which is beyond its end"
            ))
        );
        stream.unmap_single(address, 64, Access::ReadWrite).unwrap();
    }
}

#[test]
fn an_address_of_another_stream_is_named_and_stays_whose_turn_it_was() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let (mut rx, mut tx) = (device.raw_stream("rx"), device.raw_stream("tx"));
        let access = Access::ReadWrite;
        let (address, made) = (rx.map_zeroes(64, access).unwrap(), line());
        rx.sync_single_for_cpu(address, 64, access).unwrap();
        let inside = address.plus(16).unwrap();
        let not_mapped = Err(RawError::NotMapped);
        let (refused, unmapped) = (tx.unmap_single(address, 64, access), line());
        assert_eq!(refused, not_mapped);
        let (refused, synced) = (tx.sync_single_for_device(inside, 8, access), line());
        assert_eq!(refused, not_mapped);
        let (refused, read) = (tx.cpu_read(inside, &mut [0; 8]), line());
        assert_eq!(refused, not_mapped);
        let (refused, written) = (tx.cpu_write(inside, &[0; 8]), line());
        assert_eq!(refused, not_mapped);
        let thing = format!(
            "the raw mapping \"rx\" (64 bytes at {} that the device may read and write, mapped at line {made})",
            address.iova()
        );
        let said = |(act, at): (&str, u32)| {
            format!(
                "wrong stream on 0000:00:02.0: {thing} was to be {act} at line {at} by another stream, \"tx\""
            )
        };
        let acts = [
            ("unmapped", unmapped),
            ("synced", synced),
            ("read by the CPU", read),
            ("written by the CPU", written),
        ];
        assert_eq!(checked.said(), acts.map(said));
        // It is the CPU's still.
        rx.cpu_read(address, &mut [0; 64]).unwrap();
        rx.unmap_single(address, 64, access).unwrap();
        checked.said_nothing();
    }
}

#[test]
fn an_address_in_the_middle_is_named_with_what_is_around_it() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let mut stream = device.raw_stream("rx");
        let (address, made) = (stream.map_zeroes(64, Access::Write).unwrap(), line());
        let inside = address.plus(16).unwrap();
        let (refused, at) = (stream.unmap_single(inside, 48, Access::Write), line());
        assert_eq!(refused, Err(RawError::NotMapped));
        assert_eq!(
            checked.said(),
            [format!(
                "wrong address on 0000:00:02.0: {} was to be unmapped at line {at}, but is byte 16 of the raw mapping \
                 \"rx\" (64 bytes at {} that the device may write, mapped at line {made}), which is unmapped by the \
                 address of its first",
                inside.iova(),
                address.iova()
            )]
        );
        stream.unmap_single(address, 64, Access::Write).unwrap();
        checked.said_nothing();
    }
}

#[test]
fn what_was_mapped_while_the_checker_was_off_is_used_without_a_word() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let mut stream = device.raw_stream("rx");
        check::turn_off();
        let address = stream.map_zeroes(64, Access::ReadWrite).unwrap();
        check::turn_on();
        stream.sync_single_for_cpu(address, 64, Access::ReadWrite).unwrap();
        stream.cpu_read(address, &mut [0; 64]).unwrap();
        stream.cpu_write(address, &[1; 64]).unwrap();
        stream.sync_single_for_device(address, 64, Access::ReadWrite).unwrap();
        stream.unmap_single(address, 64, Access::ReadWrite).unwrap();
        drop(stream);
        checked.said_nothing();
    }
}
