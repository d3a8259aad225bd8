//! What is lent to a list that is forgotten is the device's, whatever its type says.

use libdma::{Access, Bidirectional, Error, Iova, ScatterList, Stream, StreamBuffer};
use simulated::Machine;

/// Lends a buffer to a list that is forgotten while it is mapped: where the device has it.
fn forget(stream: &Stream<Bidirectional>, buffer: &mut StreamBuffer<Bidirectional>) -> Iova {
    let mut list = ScatterList::new(stream);
    let all = 0..buffer.len();
    list.lend(buffer, all).unwrap();
    let list = list.map().unwrap();
    let iova = list.segments()[0].iova;
    std::mem::forget(list);
    iova
}

/// Buffers in a window, of a strict stream, and adopted: mapped while they are the device's, and always.
fn each(case: impl Fn(&Machine, &Stream<Bidirectional>, StreamBuffer<Bidirectional>)) {
    for machine in Machine::each() {
        let device = machine.open();
        let windowed = device.stream::<Bidirectional>("both");
        let strict = windowed.clone().strict();
        case(&machine, &windowed, windowed.buffer(300).unwrap());
        case(&machine, &strict, strict.buffer(5000).unwrap());
        for access in [None, Some(Access::ReadWrite)] {
            let own = device.allocate(4096, access, "own").unwrap();
            case(&machine, &windowed, windowed.adopt(own));
        }
        machine.check();
    }
}

#[test]
fn safe_code_cannot_touch_it_until_it_is_taken_back() {
    each(|machine, stream, mut buffer| {
        buffer.write(0, b"before").unwrap();
        let at = forget(stream, &mut buffer);
        machine.device_writes(at, b"device").unwrap();
        let mut out = [0; 6];
        assert_eq!(buffer.read(0, &mut out), Err(Error::OfDevice));
        assert_eq!(
            (buffer.write(0, b"cpu"), buffer.clear()),
            (Err(Error::OfDevice), Err(Error::OfDevice))
        );
        assert_eq!(buffer.as_ptr(), Err(Error::OfDevice));
        assert_eq!(ScatterList::new(stream).lend(&mut buffer, 0..6), Err(Error::OfDevice));
        let mut list = ScatterList::new(stream);
        let refused = list.push(buffer).unwrap_err();
        assert_eq!(refused.error, Error::OfDevice);
        let refused = refused.into_kept().map().unwrap_err();
        assert_eq!(refused.error, Error::OfDevice);
        let refused = refused.into_kept().into_buffer().unwrap_err();
        assert_eq!(refused.error, Error::OfDevice);
        let another = stream.buffer(10).unwrap();
        let refused = stream.map_all(vec![another, refused.into_kept()]).unwrap_err();
        assert_eq!(refused.error, Error::OfDevice);
        let mut buffer = refused.into_kept().remove(1);
        assert_eq!(machine.device_reads(at, 6).unwrap(), b"device", "R7");

        buffer.take_back().unwrap();
        buffer.read(0, &mut out).unwrap();
        assert_eq!(&out, b"device");
        buffer.as_ptr().unwrap();
        buffer.clear().unwrap();
        buffer.write(0, b"again").unwrap();
        let mapped = buffer.map().unwrap();
        assert_eq!(machine.device_reads(mapped.iova(), 6).unwrap(), b"again\0");
        mapped.unmap().unwrap().take_back().unwrap();
    });
}

#[test]
fn r2_what_is_taken_back_or_dropped_a_device_reaches_no_more() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let strict = device.stream::<Bidirectional>("both").strict();
        let mut buffer = strict.buffer(100).unwrap();
        let at = forget(&strict, &mut buffer);
        machine.device_writes(at, b"1").unwrap();
        buffer.take_back().unwrap();
        assert!(machine.device_writes(at, b"2").is_err());
        let at = forget(&strict, &mut buffer);
        let before = machine.usage();
        drop(buffer);
        assert!(machine.device_writes(at, b"3").is_err());
        assert_eq!(machine.usage().live_runs, before.live_runs - 1);
        machine.check();
    }
}

#[test]
fn r7_what_cannot_be_taken_back_is_the_devices_still() {
    for machine in Machine::each() {
        let strict = machine.open().stream::<Bidirectional>("both").strict();
        let mut buffer = strict.buffer(100).unwrap();
        let at = forget(&strict, &mut buffer);
        machine.client.refuse(0, 1, Error::TimedOut);
        assert_eq!(buffer.take_back(), Err(Error::TimedOut));
        assert_eq!(buffer.read(0, &mut [0; 1]), Err(Error::OfDevice));
        machine.device_writes(at, b"still").unwrap();
        buffer.take_back().unwrap();
        let mut out = [0; 5];
        buffer.read(0, &mut out).unwrap();
        assert_eq!(&out, b"still");
        machine.check();
    }
}

/// A list whose end cannot be done is as one that was forgotten.
#[test]
fn what_a_dropped_list_could_not_unmap_can_be_taken_back() {
    for machine in Machine::each() {
        let strict = machine.open().stream::<Bidirectional>("both").strict();
        let mut buffer = strict.buffer(100).unwrap();
        let mut list = ScatterList::new(&strict);
        list.lend(&mut buffer, 0..100).unwrap();
        let list = list.map().unwrap();
        machine.client.refuse(0, 1, Error::TimedOut);
        drop(list);
        assert_eq!(buffer.read(0, &mut [0; 1]), Err(Error::OfDevice));
        buffer.take_back().unwrap();
        buffer.read(0, &mut [0; 1]).unwrap();
        machine.check();
    }
}

#[test]
fn what_comes_back_from_a_list_is_the_cpus() {
    each(|machine, stream, mut buffer| {
        let mut out = [0; 4];
        for ended in [true, false] {
            let mut list = ScatterList::new(stream);
            list.lend(&mut buffer, 0..4).unwrap();
            let list = list.map().unwrap().sync_for_cpu();
            list.read(0, &mut out).unwrap();
            match ended {
                true => drop(list.unmap().unwrap()),
                false => drop(list),
            }
            buffer.read(0, &mut out).unwrap();
        }
        // One that was lent to and not mapped never went.
        let mut list = ScatterList::new(stream);
        list.lend(&mut buffer, 0..4).unwrap();
        std::mem::forget(list);
        buffer.write(0, b"mine").unwrap();
        let mapped = buffer.map().unwrap();
        assert_eq!(machine.device_reads(mapped.iova(), 4).unwrap(), b"mine");
    });
}
