//! Streaming buffers, slices, scatter lists and raw streams.

use libdma::raw::RawError;
use libdma::stream::{DeviceOwned, Gather, Refused};
use libdma::{
    Access, BusAddress, Device, Error, FromDevice, RawStream, ScatterList, Stream, StreamBuffer,
    ToDevice,
};
use simulated::Machine;

use crate::trials::{Trials, anything, with};

/// What was to be changed by a step that failed.
fn kept<T>(refused: Refused<T>) -> (Error, T) {
    (refused.error, refused.into_kept())
}

fn windowed(_: &Machine, device: &Device) -> Stream<FromDevice> {
    device.stream("rx")
}

fn strict(_: &Machine, device: &Device) -> Stream<FromDevice> {
    device.stream("rx").strict()
}

/// A buffer in no window: of a strict stream's, or of another's own.
fn alone(stream: &Stream<ToDevice>, device: &Device) -> StreamBuffer<ToDevice> {
    let buffer = device.allocate(4096, None, "adopted").unwrap();
    buffer.write(0, b"data").unwrap();
    stream.adopt(buffer)
}

fn is_data(buffer: &StreamBuffer<ToDevice>) {
    let mut out = [0; 4];
    buffer.read(0, &mut out).unwrap();
    assert_eq!(&out, b"data");
}

fn is_seen(machine: &Machine, buffer: &StreamBuffer<ToDevice, DeviceOwned>) {
    assert_eq!(machine.device_reads(buffer.iova(), 4).unwrap(), b"data");
}

#[test]
fn r7_streaming_memory_that_cannot_be_had_leaves_nothing() {
    let mut trials = Trials::begin();
    for (name, of) in [("windows", windowed as fn(&_, &_) -> _), ("strict", strict)] {
        trials.all(
            &format!("buffer, {name}"),
            of,
            with(|it: &mut Stream<FromDevice>| it.buffer(1500)),
            anything,
        );
        trials.all(
            &format!("copy, {name}"),
            of,
            with(|it: &mut Stream<FromDevice>| it.copy_of(&[7; 100])),
            anything,
        );
        trials.drops(&format!("map a slice and drop it, {name}"), |machine, device| Tried {
            stream: of(machine, device),
            slice: [9; 64],
        });
    }
    for is_strict in [false, true] {
        trials.all(
            &format!("map a slice, strict: {is_strict}"),
            |_, device| {
                let stream = device.stream::<ToDevice>("tx");
                if is_strict { stream.strict() } else { stream }
            },
            with(|it: &mut Stream<ToDevice>| it.map_slice(b"in no window")),
            anything,
        );
    }
}

/// When it is dropped, its slice is mapped and unmapped, or is not.
struct Tried {
    stream: Stream<FromDevice>,
    slice: [u8; 64],
}

impl Drop for Tried {
    fn drop(&mut self) {
        let _ = self.stream.map_slice_mut(&mut self.slice);
        assert_eq!(self.slice, [9; 64]);
    }
}

#[test]
fn r7_what_cannot_become_the_devices_stays_the_cpus() {
    let mut trials = Trials::begin();
    for is_strict in [false, true] {
        let of = |device: &Device| {
            let stream = device.stream::<ToDevice>("tx");
            if is_strict { stream.strict() } else { stream }
        };
        trials.bounces(
            &format!("map, strict: {is_strict}"),
            |_, device| alone(&of(device), device),
            |buffer| buffer.map().map_err(kept),
            |_, buffer| is_data(buffer),
        );
        trials.bounces(
            &format!("map all, strict: {is_strict}"),
            |_, device| {
                let stream = of(device);
                let own = stream.copy_of(b"data").unwrap();
                (vec![alone(&stream, device), own, alone(&stream, device)], stream)
            },
            |(buffers, stream)| match stream.map_all(buffers) {
                Ok(mapped) => Ok(mapped),
                Err(refused) => Err((refused.error, (refused.into_kept(), stream))),
            },
            |_, (buffers, _)| buffers.iter().for_each(is_data),
        );
        trials.all(
            &format!("unmap, strict: {is_strict}"),
            |_, device| alone(&of(device), device).map().unwrap(),
            |buffer| buffer.unmap().map_err(kept),
            is_seen,
        );
        trials.drops(&format!("drop what is mapped, strict: {is_strict}"), |_, device| {
            alone(&of(device), device).map().unwrap()
        });
        trials.all(
            &format!("flush, strict: {is_strict}"),
            |_, device| gathered(&of(device), device),
            with(|it: &mut Gather<ToDevice>| it.flush()),
            |_, it: &Gather<ToDevice>| assert_eq!(it.waiting(), 3),
        );
        trials.drops(&format!("drop what is gathered, strict: {is_strict}"), |_, device| {
            gathered(&of(device), device)
        });
    }
    trials.all(
        "unmap a slice",
        |_, device| {
            let slice: &'static mut [u8] = vec![9; 4].leak();
            device.stream::<FromDevice>("rx").strict().map_slice_mut(slice).unwrap()
        },
        |mapped| mapped.unmap().map_err(kept),
        |machine, mapped| machine.device_writes(mapped.iova(), b"more").unwrap(),
    );
}

fn gathered(stream: &Stream<ToDevice>, device: &Device) -> Gather<ToDevice> {
    let mut gather = stream.gather(32);
    for _ in 0..3 {
        gather.unmap_later(alone(stream, device).map().unwrap()).unwrap();
    }
    gather
}

/// A list of all that there can be in one: slices, memory of the stream's, and a buffer of its own.
fn list(stream: &Stream<FromDevice>, device: &Device) -> ScatterList<'static, FromDevice> {
    let mut list = ScatterList::new(stream);
    list.push_slice_mut(vec![1; 64].leak()).unwrap();
    list.push_slice_mut(vec![1; 100].leak()).unwrap();
    list.push(stream.copy_of(&[1; 1500]).unwrap()).unwrap();
    let buffer = device.allocate(8192, None, "adopted").unwrap();
    buffer.write(0, &[1; 8192]).unwrap();
    list.push(stream.adopt(buffer)).unwrap();
    list.push_slice_mut(vec![1; 5000].leak()).unwrap();
    list
}

#[test]
fn r7_a_list_is_the_devices_whole_or_not_at_all() {
    let mut trials = Trials::begin();
    for (name, of) in [("windows", windowed as fn(&_, &_) -> _), ("strict", strict)] {
        trials.bounces(
            &format!("map a list, {name}"),
            |machine, device| list(&of(machine, device), device),
            |list| list.map().map_err(kept),
            |_, list| {
                let mut out = vec![0; list.len()];
                list.read(0, &mut out).unwrap();
                assert_eq!(out, vec![1; 64 + 100 + 1500 + 8192 + 5000]);
            },
        );
        trials.all(
            &format!("unmap a list, {name}"),
            |machine, device| list(&of(machine, device), device).map().unwrap(),
            |list| list.unmap().map_err(kept),
            |machine, list| {
                for segment in list.segments() {
                    machine.device_writes(segment.iova, &[2]).unwrap();
                }
            },
        );
        trials.drops(&format!("drop a list, {name}"), |machine, device| {
            list(&of(machine, device), device).map().unwrap()
        });
    }
    trials.all(
        "map a list of slices",
        |machine, device| {
            let mut list = ScatterList::new(&windowed(machine, device));
            list.push_slice_mut(vec![1; 64].leak()).unwrap();
            list.push_slice_mut(vec![1; 70_000].leak()).unwrap();
            list
        },
        |list| list.map().map_err(kept),
        |_, list| assert_eq!(list.len(), 70_064),
    );
}

/// Why a request failed.
fn cause(error: RawError) -> Error {
    let RawError::Failed(error) = error else { panic!("{error}") };
    error
}

/// Four bytes for the device to read, unmapped when this is dropped.
struct ByAddress {
    stream: RawStream,
    at: BusAddress,
}

impl Drop for ByAddress {
    fn drop(&mut self) {
        self.stream.unmap_single(self.at, 4, Access::Read).unwrap();
    }
}

#[test]
fn r7_a_raw_stream_holds_what_it_held() {
    let mut trials = Trials::begin();
    let of = |is_strict: bool| {
        move |_: &Machine, device: &Device| {
            let stream = device.raw_stream("raw");
            if is_strict { stream.strict() } else { stream }
        }
    };
    for is_strict in [false, true] {
        trials.all(
            &format!("map by address, strict: {is_strict}"),
            of(is_strict),
            |mut stream| match stream.map_single(b"data", Access::Read) {
                Ok(at) => Ok(ByAddress { stream, at }),
                Err(error) => Err((cause(error), stream)),
            },
            |_, it| assert!(it.is_empty()),
        );
        trials.all(
            &format!("map zeroes by address, strict: {is_strict}"),
            of(is_strict),
            |mut stream| match stream.map_zeroes(4, Access::Read) {
                Ok(at) => Ok(ByAddress { stream, at }),
                Err(error) => Err((cause(error), stream)),
            },
            |_, it| assert!(it.is_empty()),
        );
    }
    trials.all(
        "unmap by address",
        |_, device| {
            let mut stream = device.raw_stream("raw").strict();
            let at = stream.map_single(b"data", Access::Read).unwrap();
            (stream, at)
        },
        with(|(stream, at): &mut (RawStream, BusAddress)| {
            stream.unmap_single(*at, 4, Access::Read).map_err(cause)
        }),
        |machine, (stream, at)| {
            assert_eq!(stream.len(), 1);
            assert_eq!(machine.device_reads(at.iova(), 4).unwrap(), b"data");
        },
    );
}
