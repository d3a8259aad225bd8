//! Faults, and what is behind them.

use libdma::{Access, Device, Fault, FromDevice, Iova, MapRequest, ScatterList, check};
use simulated::Machine;

use crate::{Checked, line};

/// What the device was denied, which is one access.
fn the_fault(device: &Device) -> Fault {
    let events = device.events().unwrap();
    let faults: Vec<_> = events.faults().collect();
    let [fault] = faults[..] else { panic!("{faults:?}") };
    *fault
}

#[test]
fn a_fault_in_a_block_is_explained() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let pool = device.pool("commands").access(Access::Read).bytes(64).unwrap();
        let (block, made) = (pool.alloc().unwrap(), line());
        let address = block.iova();
        assert!(machine.device_writes(address, &[1; 4]).is_err());
        machine.service.lock().poll();
        let fault = the_fault(&device);
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; that is byte 0 of the block of pool \"commands\" (64 bytes at {address} \
                 that the device may read, allocated at line {made}), which is mapped, but not for writing"
            )]
        );
    }
}

#[test]
fn use_after_unmap_of_a_strict_stream_is_explained_with_both_places() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx").strict();
        let (buffer, mapped) = (stream.buffer(1500).unwrap().map().unwrap(), line());
        let address = buffer.iova();
        machine.device_writes(address, &[1; 4]).unwrap();
        let (_buffer, unmapped) = (buffer.unmap().unwrap(), line());
        checked.said_nothing();
        assert!(machine.device_writes(Iova::new(address.get() + 16), &[1; 4]).is_err());
        machine.service.lock().poll();
        let fault = the_fault(&device);
        // VT-d tells no more of an address than its page.
        let offset = fault.address.get() - address.get();
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; that is byte {offset} of the stream \"rx\" (1500 bytes at {address} that \
                 the device may write, mapped at line {mapped}), which was unmapped at line {unmapped}"
            )]
        );
        // What was dropped while it was the device's has no line.
        let dropped = stream.buffer(1500).unwrap().map().unwrap();
        let address = dropped.iova();
        drop(dropped);
        assert!(machine.device_writes(address, &[1]).is_err());
        machine.service.lock().poll();
        device.events().unwrap();
        let said = checked.said();
        assert!(said[0].ends_with("which was unmapped when it was dropped"), "{said:?}");
    }
}

#[test]
fn use_after_unmap_in_a_domain_is_explained_too() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let domain = device.new_domain("fixed").create().unwrap();
        let _inside = domain.attach(&device).unwrap();
        let buffer = device.allocate(4096, None, "firmware").unwrap();
        let piece =
            MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let (place, made) = (domain.map_at(Iova::new(0x40_0000), &[piece]).unwrap(), line());
        machine.device_writes(Iova::new(0x40_0010), &[1]).unwrap();
        let (_, unmapped) = (domain.unmap(&place).unwrap(), line());
        assert!(machine.device_writes(Iova::new(0x40_0000), &[1]).is_err());
        machine.service.lock().poll();
        let fault = the_fault(&device);
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; that is byte 0 of the mapping of \"firmware\" (4096 bytes at 0x400000 that \
                 the device may read and write, mapped at line {made}), which was unmapped at line {unmapped}"
            )]
        );
    }
}

/// What is said when the device is denied a write there.
#[track_caller]
fn said_of_write(checked: &Checked, machine: &Machine, device: &Device, address: Iova) -> String {
    checked.said_nothing();
    assert!(machine.device_writes(address, &[1]).is_err());
    machine.service.lock().poll();
    assert_eq!(device.events().unwrap().events.len(), 1);
    checked.said().pop().unwrap_or_default()
}

#[test]
fn a_fault_is_not_explained_by_what_an_earlier_session_had_there() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let buffer = device.allocate(4096, Some(Access::Write), "of before").unwrap();
        let address = buffer.iova().unwrap();
        drop(buffer);
        let said = said_of_write(&checked, &machine, &device, address);
        assert!(said.contains("the buffer \"of before\""), "{said}");
        drop(device);
        let device = machine.open();
        assert_eq!(said_of_write(&checked, &machine, &device, address), "");
    }
}

#[test]
fn a_buffer_of_a_device_that_is_in_a_domain_is_explained_as_just_that() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        // What the machine before had at the same addresses.
        check::turn_off();
        check::turn_on();
        let device = machine.open();
        let (buffer, made) =
            (device.allocate(4096, Some(Access::ReadWrite), "table").unwrap(), line());
        let address = buffer.iova().unwrap();
        let domain = device.new_domain("fixed").aperture(Iova::new(0x40_0000), 1 << 20).create();
        let domain = domain.unwrap();
        let (stay, entered) = (domain.attach(&device).unwrap(), line());
        let thing = format!(
            "that is byte 0 of the buffer \"table\" (4096 bytes at {address} that the device may read and write, \
             allocated at line {made})"
        );
        let said = said_of_write(&checked, &machine, &device, address);
        let end = format!(
            "{thing}, which is out of the device's reach while it is in domain \"fixed\", which it entered at line \
             {entered}"
        );
        assert!(said.ends_with(&end), "{said}");

        // Told only when it has left, it is explained all the same.
        assert!(machine.device_writes(address, &[1]).is_err());
        let (_, left) = (stay.leave().unwrap(), line());
        machine.service.lock().poll();
        assert_eq!(device.events().unwrap().events.len(), 1);
        let said = checked.said().remove(0);
        assert!(said.ends_with(&format!("{end} and left at line {left}")), "{said}");

        // And what is mapped in the domain is out of reach since.
        let piece =
            MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let (mapped, made) = (domain.map(&[piece]).unwrap()[0], line());
        let said = said_of_write(&checked, &machine, &device, mapped.iova());
        let end = format!(
            "that is byte 0 of the mapping of \"table\" (4096 bytes at {} that the device may read and write, mapped \
             at line {made}), which the device reaches only while it is in domain \"fixed\", which it entered at line \
             {entered} and left at line {left}",
            mapped.iova()
        );
        assert!(said.ends_with(&end), "{said}");
    }
}

/// However strict memory is unmapped, both places are known.
#[test]
fn use_after_each_kind_of_unmap_is_explained_with_both_places() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx").strict();
        let explained = |address, made: u32, ended: u32| {
            let said = said_of_write(&checked, &machine, &device, address);
            assert!(said.contains(&format!("mapped at line {made})")), "{said}");
            assert!(said.ends_with(&format!("which was unmapped at line {ended}")), "{said}");
        };
        // The memory of each is kept, so that no other lies at its address.
        let (mapped, made) = (stream.map_all(vec![stream.buffer(64).unwrap()]).unwrap(), line());
        let address = mapped[0].iova();
        let mut gather = stream.gather(8);
        mapped.into_iter().for_each(|it| gather.unmap_later(it).unwrap());
        let (_, ended) = (gather.flush().unwrap(), line());
        explained(address, made, ended);

        let mut slice = [0; 64];
        let (mapped, made) = (stream.map_slice_mut(&mut slice).unwrap(), line());
        let address = mapped.iova();
        let (_, ended) = (mapped.unmap().unwrap(), line());
        explained(address, made, ended);

        let mut list = ScatterList::new(&stream);
        list.push(stream.buffer(64).unwrap()).unwrap();
        let (mapped, made) = (list.map().unwrap(), line());
        let address = mapped.segments()[0].iova;
        let (_list, ended) = (mapped.unmap().unwrap(), line());
        explained(address, made, ended);
    }
}

#[test]
fn what_was_mapped_in_a_domain_is_gone_with_it() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        check::turn_off();
        check::turn_on();
        let device = machine.open();
        let buffer = device.allocate(4096, None, "firmware").unwrap();
        let domain = device.new_domain("fixed").create().unwrap();
        let stay = domain.attach(&device).unwrap();
        let all = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let (_, made) = (domain.map_at(Iova::new(0x40_0000), &[all]).unwrap(), line());
        drop(domain);
        let said = said_of_write(&checked, &machine, &device, Iova::new(0x40_0000));
        assert!(said.contains(&format!("mapped at line {made})")), "{said}");
        assert!(said.ends_with("which was unmapped when it was dropped"), "{said}");
        drop(stay);
    }
}
