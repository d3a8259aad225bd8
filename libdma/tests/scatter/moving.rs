//! What one side put into the pieces, the other finds in the segments.

use libdma::scatter::Segment;
use libdma::stream::HasAddress;
use libdma::{
    Attributes, Bidirectional, Direction, Error, FromDevice, Iova, ScatterList, Stream, ToDevice,
};
use simulated::Machine;

/// All that the device finds.
pub(crate) fn device_reads(machine: &Machine, segments: &[Segment]) -> Vec<u8> {
    let read = |it: &Segment| machine.device_reads(it.iova, it.bytes as usize).unwrap();
    segments.iter().flat_map(read).collect()
}

/// The device fills all of it.
pub(crate) fn device_writes<D: Direction, O: HasAddress>(
    machine: &Machine,
    list: &ScatterList<'_, D, O>,
    mut data: &[u8],
) {
    for it in list.segments() {
        let (now, later) = data.split_at(it.bytes as usize);
        machine.device_writes(it.iova, now).unwrap();
        data = later;
    }
    assert!(data.is_empty());
}

fn both_kinds<D: Direction>(machine: &Machine) -> [Stream<D>; 2] {
    let stream = machine.open().stream("list");
    [stream.clone(), stream.strict()]
}

fn numbers(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|it| (it % 251) as u8 + 1).collect()
}

#[test]
fn the_device_reads_all_pieces_in_their_order() {
    for machine in Machine::each() {
        for stream in both_kinds::<ToDevice>(&machine) {
            let data = numbers(20_000);
            let given = stream.copy_of(&data[100..6000]).unwrap();
            let mut lent = stream.copy_of(&data[5990..7000]).unwrap();
            let mut list = ScatterList::new(&stream);
            list.push_slice(&data[..37]).unwrap();
            list.push_slice(&data[37..100]).unwrap();
            list.push(given).unwrap();
            list.lend(&mut lent, 10..1010).unwrap();
            list.push_slice(&data[7000..]).unwrap();
            assert_eq!(list.len(), data.len());
            let mapped = list.map().unwrap();
            assert_eq!(device_reads(&machine, mapped.segments()), data);
            let mut list = mapped.unmap().unwrap();
            let back: Vec<_> = list.clear().map(|it| it.len()).collect();
            assert_eq!((back, list.is_empty()), (vec![5900], true));
            drop(list);
            assert_eq!(lent.len(), 1010, "it is the lender's again");
        }
        machine.check();
    }
}

#[test]
fn what_the_device_wrote_is_in_all_pieces() {
    for machine in Machine::each() {
        for stream in both_kinds::<FromDevice>(&machine) {
            let data = numbers(9000);
            let (mut first, mut second) = ([0; 100], [0; 50]);
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut first).unwrap();
            list.push_slice_mut(&mut second).unwrap();
            list.push(stream.buffer(8850).unwrap()).unwrap();
            let mapped = list.map().unwrap();
            device_writes(&machine, &mapped, &data);
            let mut list = mapped.unmap().unwrap();
            let mut out = vec![0; 9000];
            list.read(0, &mut out).unwrap();
            assert_eq!(out, data);
            let mut part = [0; 10];
            list.read(145, &mut part).unwrap();
            assert_eq!(part, data[145..155]);
            assert_eq!(list.read(8991, &mut part), Err(Error::OutOfBuffer));
            assert_eq!(list.read(usize::MAX, &mut part), Err(Error::OutOfBuffer));
            let buffer = list.clear().next().unwrap();
            drop(list);
            buffer.read(0, &mut out[150..]).unwrap();
            assert_eq!(
                (&first[..], &second[..], &out[150..]),
                (&data[..100], &data[100..150], &data[150..])
            );
        }
        machine.check();
    }
}

#[test]
fn turns_are_taken_with_a_list() {
    for machine in Machine::each() {
        for stream in both_kinds::<Bidirectional>(&machine) {
            let mut slice = *b"slice";
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut slice).unwrap();
            list.push(stream.copy_of(b"buffer").unwrap()).unwrap();
            let mapped = list.map().unwrap();
            assert_eq!(device_reads(&machine, mapped.segments()), b"slicebuffer");
            device_writes(&machine, &mapped, b"SLICEbuffer");
            let synced = mapped.sync_for_cpu();
            let mut out = [0; 11];
            synced.read(0, &mut out).unwrap();
            assert_eq!(&out, b"SLICEbuffer");
            let mapped = synced.sync_for_device();
            device_writes(&machine, &mapped, b"second turn");
            // Dropped, it is unmapped.
            drop(mapped);
            assert_eq!(&slice, b"secon");
        }
        machine.check();
    }
}

#[test]
fn what_the_device_did_not_write_is_as_it_was() {
    for machine in Machine::each() {
        for stream in both_kinds::<FromDevice>(&machine) {
            let (mut first, mut second) = (*b"first", *b"second");
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut first).unwrap();
            list.push_slice_mut(&mut second).unwrap();
            let mapped = list.map().unwrap();
            let iova = Iova::new(mapped.segments()[0].iova.get() + 4);
            machine.device_writes(iova, b"!!").unwrap();
            drop(mapped.unmap().unwrap());
            assert_eq!((&first, &second), (b"firs!", b"!econd"));
            let skipping = stream.attributes(Attributes::SKIP_CPU_SYNC).unwrap();
            let mut list = ScatterList::new(&skipping);
            list.push_slice_mut(&mut first).unwrap();
            let mapped = list.map().unwrap();
            device_writes(&machine, &mapped, b"wrote");
            drop(mapped);
            assert_eq!(&first, b"firs!");
        }
    }
}

#[test]
fn a_forgotten_list_leaves_the_device_copies_of_slices_alone() {
    for machine in Machine::each() {
        let device = machine.open();
        for stream in
            [device.stream::<FromDevice>("rx"), device.stream::<FromDevice>("rx").strict()]
        {
            let (mut slice, mut lent) = ([1; 64], stream.buffer(64).unwrap());
            let mut list = ScatterList::new(&stream);
            list.push_slice_mut(&mut slice).unwrap();
            list.lend(&mut lent, 0..64).unwrap();
            let mapped = list.map().unwrap();
            let segments = mapped.segments().to_vec();
            core::mem::forget(mapped);
            for it in segments {
                machine.device_writes(it.iova, &vec![2; it.bytes as usize]).unwrap();
            }
            assert_eq!(slice, [1; 64]);
            lent.take_back().unwrap();
            drop(lent.map().unwrap().unmap().unwrap());
        }
        machine.check();
    }
}

#[test]
fn r2_what_is_in_no_window_is_out_of_reach_after_the_unmap() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let stream = machine.open().stream::<FromDevice>("rx").strict();
        let mut slice = [0; 64];
        let mut list = ScatterList::new(&stream);
        list.push_slice_mut(&mut slice).unwrap();
        list.push(stream.buffer(64).unwrap()).unwrap();
        let mapped = list.map().unwrap();
        let segments = mapped.segments().to_vec();
        device_writes(&machine, &mapped, &[1; 128]);
        let _list = mapped.unmap().unwrap();
        for it in segments {
            assert!(machine.device_writes(it.iova, b"late").is_err());
        }
        machine.check();
    }
}
