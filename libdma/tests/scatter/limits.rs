//! How many segments there are, and how many requests they take.

use libdma::protocol::MAX_BATCH;
use libdma::{Error, FromDevice, Limits, ScatterList, ToDevice};
use simulated::Machine;

use crate::moving::device_reads;

#[test]
fn slices_that_follow_each_other_are_one_segment() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<ToDevice>("tx");
        let data: Vec<u8> = (0..1000).map(|it| it as u8).collect();
        let mut list = ScatterList::new(&stream);
        for slice in data.chunks(7) {
            list.push_slice(slice).unwrap();
        }
        let mapped = list.map().unwrap();
        assert_eq!(mapped.segments().len(), 1);
        assert_eq!(device_reads(&machine, mapped.segments()), data);
    }
}

#[test]
fn segments_are_split_where_the_device_cannot_take_them() {
    for machine in Machine::each() {
        let mut device = machine.open();
        device.set_limits(Limits::NONE.max_segment(3000).boundary(4096));
        for stream in [device.stream::<ToDevice>("tx"), device.stream::<ToDevice>("tx").strict()] {
            let data: Vec<u8> = (0..20_000).map(|it| it as u8).collect();
            let mut list = ScatterList::new(&stream);
            list.push_slice(&data[..9000]).unwrap();
            list.push(stream.copy_of(&data[9000..]).unwrap()).unwrap();
            let mapped = list.map().unwrap();
            for it in mapped.segments() {
                let (start, last) = (it.iova.get(), it.iova.get() + it.bytes - 1);
                assert!(it.bytes <= 3000 && start / 4096 == last / 4096, "{it:?}");
            }
            assert_eq!(device_reads(&machine, mapped.segments()), data);
        }
        machine.check();
    }
}

#[test]
fn what_is_in_no_window_takes_one_request_for_all() {
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<ToDevice>("tx");
        let mut list = ScatterList::new(&stream);
        for label in ["first", "second", "third"] {
            let buffer = device.allocate(8192, None, label).unwrap();
            buffer.write(0, label.as_bytes()).unwrap();
            list.push(stream.adopt(buffer)).unwrap();
        }
        let before = machine.client.requests();
        let mapped = list.map().unwrap();
        assert_eq!(machine.client.requests(), before + 1);
        // One behind the other, where I/O addresses are not where the memory is.
        assert_eq!(mapped.segments().len() == 1, device.is_confined());
        let mapped = mapped.sync_for_cpu().sync_for_device();
        let data = device_reads(&machine, mapped.segments());
        assert_eq!((&data[..5], &data[8192..8198]), (&b"first"[..], &b"second"[..]));
        let list = mapped.unmap().unwrap();
        assert_eq!(machine.client.requests(), before + 2);
        drop(list);
        machine.check();
    }
}

#[test]
fn in_windows_a_list_takes_no_request() {
    for machine in Machine::each() {
        let stream = machine.open().stream::<FromDevice>("rx");
        let mut list = ScatterList::new(&stream);
        for _ in 0..16 {
            list.push(stream.buffer(512).unwrap()).unwrap();
        }
        let before = machine.client.requests();
        for _ in 0..3 {
            let mapped = list.map().unwrap();
            assert!(mapped.segments().len() <= 16);
            list = mapped.sync_for_cpu().unmap().unwrap();
        }
        assert_eq!(machine.client.requests(), before);
    }
}

#[test]
fn what_cannot_be_in_a_list_is_refused_and_comes_back() {
    let machine = Machine::vtd();
    let mut device = machine.open();
    let other = machine.open_at(simulated::second_edu()).unwrap();
    let stream = device.stream::<ToDevice>("tx");
    let strangers = other.stream::<ToDevice>("other").buffer(64).unwrap();
    let mut list = ScatterList::new(&stream);
    let refused = list.push(strangers).unwrap_err();
    assert_eq!((refused.error, refused.kept.len()), (Error::WrongOwner, 64));
    assert_eq!(
        list.push(stream.clone().strict().buffer(64).unwrap()).unwrap_err().error,
        Error::OtherTerms
    );
    for (range, error) in [(0..65, Error::OutOfBuffer), (5..5, Error::ZeroSize)] {
        assert_eq!(list.push_range(stream.buffer(64).unwrap(), range).unwrap_err().error, error);
    }
    assert_eq!(list.push_slice(&[]), Err(Error::ZeroSize));
    assert_eq!(list.map().unwrap_err().error, Error::ZeroSize, "it is empty still");
    // Memory of a stream with a wider mask.
    let wide = stream.buffer(64).unwrap();
    device.set_dma_mask(20).unwrap();
    let mut list = ScatterList::new(&device.stream::<ToDevice>("narrow"));
    assert_eq!(list.push(wide).unwrap_err().error, Error::OtherTerms);
    drop(list);
    let strict = device.stream::<ToDevice>("strict").strict();
    let mut list = ScatterList::new(&strict);
    for _ in 0..=MAX_BATCH {
        list.push(strict.buffer(1).unwrap()).unwrap();
    }
    assert_eq!(list.map().unwrap_err().error, Error::BatchTooLarge);
    machine.check();
}
