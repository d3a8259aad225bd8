//! Streaming buffers.

use std::sync::Arc;

use libdma::{Device, FromDevice, Stream, ToDevice};
use loom::thread;

use crate::orders::all;
use crate::owners::Owners;

fn turn(stream: &Stream<FromDevice>, owners: &Owners) {
    let buffer = stream.buffer(64).unwrap().map().unwrap();
    owners.touch(buffer.iova());
    drop(buffer.unmap().unwrap());
}

#[test]
fn two_threads_take_buffers_of_one_stream() {
    all("two threads stream", |iommud| {
        let device = iommud.open();
        let (stream, owners) = (Arc::new(device.stream("rx")), Arc::new(Owners::default()));
        let other = {
            let (stream, owners) = (stream.clone(), owners.clone());
            thread::spawn(move || turn(&stream, &owners))
        };
        turn(&stream, &owners);
        other.join().unwrap();
    });
}

#[test]
fn what_is_dropped_while_it_is_the_devices_is_one_threads_next() {
    all("a thread drops what is the device's", |iommud| {
        let device = Arc::new(iommud.open());
        let owners = Arc::new(Owners::default());
        let other = {
            let (device, owners) = (device.clone(), owners.clone());
            thread::spawn(move || {
                let mapped = sent(&device);
                owners.touch(mapped.iova());
                drop(mapped);
            })
        };
        let mine = sent(&device);
        owners.touch(mine.iova());
        let next = sent(&device);
        owners.touch(next.iova());
        other.join().unwrap();
        assert_ne!(mine.iova(), next.iova());
    });
}

fn sent(device: &Device) -> libdma::StreamBuffer<ToDevice, libdma::stream::DeviceOwned> {
    device.stream::<ToDevice>("tx").copy_of(b"packet").unwrap().map().unwrap()
}
