//! What is mapped by hand.

use libdma::protocol::Rights;
use libdma::{Access, Device, Error, MapRequest, Mapped, check};
use simulated::Machine;

use crate::{Checked, line};

#[test]
fn a_mapping_is_unmapped_once_and_as_it_is() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.allocate(8192, None, "blocks").unwrap();
        let request = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        let (mapped, made) = (device.map(&[request]).unwrap()[0], line());
        let address = mapped.iova();
        let wrong = Mapped::new(mapped.address(), 8192);
        let (unmapped, at) = (device.unmap(&[wrong]), line());
        assert_eq!(unmapped, Err(Error::NotMapped));
        let thing = format!(
            "the mapping of \"blocks\" (4096 bytes at {address} that the device may read, mapped at line \
                {made})"
        );
        assert_eq!(
            checked.said(),
            [format!(
                "wrong size on 0000:00:02.0: {thing} was to be unmapped as 8192 bytes at line {at}"
            )]
        );
        let (unmapped, first) = (device.unmap(&[mapped]), line());
        assert_eq!(unmapped, Ok(()));
        checked.said_nothing();
        let (unmapped, again) = (device.unmap(&[mapped]), line());
        assert_eq!(unmapped, Err(Error::NotMapped));
        assert_eq!(
            checked.said(),
            [format!(
                "double unmap on 0000:00:02.0: {thing} was unmapped at line {first}, and was to be again at line \
                 {again}"
            )]
        );
        device.map(&[request]).unwrap();
        drop((buffer, device));
        assert_eq!(check::leaks(), 0, "it ended with its buffer");
    }
}

#[test]
fn a_mapping_that_one_call_is_to_unmap_twice_is_named_and_stays() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.allocate(8192, None, "blocks").unwrap();
        let piece =
            |offset| MapRequest { buffer: &buffer, offset, bytes: 4096, access: Access::Read };
        let (mapped, made) = (device.map(&[piece(0), piece(4096)]).unwrap(), line());
        let (twice, other) = (mapped[0], mapped[1]);
        let (unmapped, at) = (device.unmap(&[twice, other, twice, twice]), line());
        assert_eq!(unmapped, Err(Error::NotMapped));
        assert_eq!(
            checked.said(),
            [format!(
                "double unmap on 0000:00:02.0: the mapping of \"blocks\" (4096 bytes at {} that the device may read, \
                 mapped at line {made}) was to be unmapped twice by the one call at line {at}",
                twice.iova()
            )]
        );
        device.unmap(&[twice, other]).unwrap();
        checked.said_nothing();
        // What is not mapped at all is named as that, however often.
        assert_eq!(device.unmap(&[twice, twice]), Err(Error::NotMapped));
        let said = checked.said();
        assert!(said.iter().all(|it| it.contains("was to be again at")), "{said:?}");
        assert_eq!(said.len(), 2);
    }
}

#[test]
fn however_it_was_mapped_it_is_known_where() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.buffer("pieces").align(8192).allocate(8192).unwrap();
        let all = MapRequest { buffer: &buffer, offset: 0, bytes: 8192, access: Access::ReadWrite };
        let unmap_twice = |mapped: &[Mapped], made| {
            device.unmap(mapped).unwrap();
            assert_eq!(device.unmap(mapped), Err(Error::NotMapped));
            let said = checked.said().remove(0);
            assert!(said.contains(&format!("mapped at line {made})")), "{said}");
        };
        let (anywhere, made) = (device.map(&[all]).unwrap(), line());
        unmap_twice(&anywhere, made);
        // Where the memory is by itself, without an IOMMU.
        let (fixed, made) = (device.map_at(anywhere[0].iova(), &[all]).unwrap(), line());
        unmap_twice(&fixed, made);
        let (together, made) = (device.map_together(&[all]).unwrap(), line());
        unmap_twice(&together, made);
    }
}

#[test]
fn what_one_handle_mapped_and_another_of_the_session_unmapped_is_known_to_both() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let handle = device.derive(Rights::DEVICE).unwrap();
        let other = Device::from_handle(handle).unwrap();
        let buffer = device.allocate(4096, None, "blocks").unwrap();
        let request = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        let (mapped, made) = (device.map(&[request]).unwrap(), line());
        let (unmapped, first) = (other.unmap(&mapped), line());
        assert_eq!(unmapped, Ok(()));
        checked.said_nothing();
        for device in [&device, &other] {
            let (unmapped, again) = (device.unmap(&mapped), line());
            assert_eq!(unmapped, Err(Error::NotMapped));
            assert_eq!(
                checked.said(),
                [format!(
                    "double unmap on 0000:00:02.0: the mapping of \"blocks\" (4096 bytes at {} that the device may \
                     read, mapped at line {made}) was unmapped at line {first}, and was to be again at line {again}",
                    mapped[0].iova()
                )]
            );
        }
    }
}

#[test]
fn what_was_mapped_while_the_checker_was_off_is_unmapped_without_a_word() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        check::turn_off();
        let buffer = device.allocate(8192, None, "blocks").unwrap();
        let piece =
            |offset| MapRequest { buffer: &buffer, offset, bytes: 4096, access: Access::Read };
        let before = device.map(&[piece(0)]).unwrap();
        check::turn_on();
        let after = device.map(&[piece(4096)]).unwrap();
        device.unmap(&[before, after].concat()).unwrap();
        drop(buffer);
        assert_eq!(check::leaks(), 0);
        checked.said_nothing();
    }
}
