//! What is of another device, or of a domain.

use libdma::{Access, Iova, MapRequest};
use simulated::{Machine, second_edu};

use crate::{Checked, line};

#[test]
fn an_address_of_another_device_is_named_with_both_devices_and_what_it_is() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let (disk, card) = (machine.open(), machine.open_at(second_edu()).unwrap());
        let pool = disk.pool("commands").bytes(64).unwrap();
        let frames = card.pool("frames").bytes(64).unwrap();
        let mut rx = card.raw_stream("rx");
        let said = |thing: &str, act: &str, at: u32| {
            format!(
                "wrong device on 0000:01:00.0: {thing} of 0000:00:02.0 (session 1) was to be {act} at line {at} as \
                 an address of 0000:01:00.0 (session 2)"
            )
        };

        let (address, made) = (pool.alloc().unwrap().into_address(), line());
        let block = format!(
            "the block of pool \"commands\" (64 bytes at {} that the device may read and write, allocated at line \
             {made})",
            address.iova()
        );
        let access = Access::Write;
        let (_, took) = (frames.take(address).unwrap_err(), line());
        let (_, freed) = (frames.free(address).unwrap_err(), line());
        let (_, unmapped) = (rx.unmap_single(address, 64, access).unwrap_err(), line());
        let (_, synced) = (rx.sync_single_for_cpu(address, 64, access).unwrap_err(), line());
        let (_, read) = (rx.cpu_read(address, &mut [0; 64]).unwrap_err(), line());
        let acts = [
            ("given back", took),
            ("given back", freed),
            ("given back", unmapped),
            ("synced", synced),
            ("read by the CPU", read),
        ];
        assert_eq!(checked.said(), acts.map(|(act, at)| said(&block, act, at)));

        let buffer = disk.allocate(4096, None, "sectors").unwrap();
        let whole = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        let (mapped, made) = (disk.map(&[whole]).unwrap()[0], line());
        let (_, at) = (card.unmap(&[mapped]).unwrap_err(), line());
        let mapping = format!(
            "the mapping of \"sectors\" (4096 bytes at {} that the device may read, mapped at line {made})",
            mapped.iova()
        );
        assert_eq!(checked.said(), [said(&mapping, "unmapped", at)]);
        // Where nothing is, whose it would be is told all the same.
        let nothing = disk.bus_address(Iova::new(0x5000));
        let (_, at) = (frames.free(nothing).unwrap_err(), line());
        assert_eq!(checked.said(), [said("0x5000", "given back", at)]);
        disk.unmap(&[mapped]).unwrap();
        pool.free(address).unwrap();
        checked.said_nothing();
    }
}

#[test]
fn an_address_of_a_domain_is_named_with_what_is_there_and_not_in_the_device() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let domain = device.new_domain("fixed").create().unwrap();
        let [one, two] = ["one", "two"].map(|label| device.allocate(4096, None, label).unwrap());
        let piece =
            |buffer| MapRequest { buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let (there, made) = (domain.map(&[piece(&two)]).unwrap()[0], line());
        let here = device.map_at(there.iova(), &[piece(&one)]).unwrap()[0];
        let (_, at) = (device.unmap(&[there]).unwrap_err(), line());
        assert_eq!(
            checked.said(),
            [format!(
                "wrong device on 0000:00:02.0: the mapping of \"two\" (4096 bytes at {} that the device may read and \
                 write, mapped at line {made}) of domain {} of 0000:00:02.0 (session 1) was to be unmapped at line {at} \
                 as an address of 0000:00:02.0 (session 1)",
                there.iova(),
                domain.id()
            )]
        );
        device.unmap(&[here]).unwrap();
        domain.unmap(&[there]).unwrap();
        checked.said_nothing();
    }
}
