//! The checker on a simulated machine: what is reported, in which words, and that nothing is while it is off.
//!
//! There is one checker in a process, so that the tests take turns.
#![cfg(target_os = "linux")]

use std::panic::Location;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::{env, mem};

use libdma::check::{self, Report};
use libdma::pool::NotTaken;
use libdma::{Access, Error, FromDevice, Iova, MapRequest, Mapped, Pool, ScatterList, ToDevice};
use simulated::Machine;

static TURN: Mutex<()> = Mutex::new(());
static REPORTS: Mutex<Vec<Report>> = Mutex::new(Vec::new());

fn collect(report: &Report) {
    REPORTS.lock().unwrap().push(report.clone());
}

/// The checker, for one test.
struct Checked(#[allow(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

impl Checked {
    fn begin() -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        check::turn_off();
        check::turn_on();
        check::on_report(collect);
        REPORTS.lock().unwrap().clear();
        Self(turn)
    }

    /// What was reported since this was last asked, with `line N` for lines of this file.
    fn said(&self) -> Vec<String> {
        let reports = mem::take(&mut *REPORTS.lock().unwrap());
        let line = format!("{}:", file!());
        reports.iter().map(|report| report.to_string().replace(&line, "line ")).collect()
    }

    #[track_caller]
    fn said_nothing(&self) {
        assert_eq!(self.said(), Vec::<String>::new());
    }
}

/// The line on which this is called.
#[track_caller]
fn line() -> u32 {
    Location::caller().line()
}

#[test]
fn a_driver_that_gives_everything_back_is_not_mentioned() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").bytes(64).unwrap();
        let (held, left) = (pool.alloc().unwrap(), pool.alloc_zeroed().unwrap().into_iova());
        drop(held);
        pool.free(left).unwrap();
        let again = pool.alloc().unwrap();
        again.write(0, &[1; 64]).unwrap();
        drop(pool.take(again.into_iova()));
        drop((pool, device));
    }
    assert_eq!(check::leaks(), 0);
    checked.said_nothing();
}

#[test]
fn what_others_wrote_into_a_chunk_that_was_given_up_is_not_mentioned() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let block = pool.alloc().unwrap();
    let address = block.iova();
    drop(block);
    assert_eq!(pool.shrink(), 1);
    let others = device.coherent("others").bytes(4096).unwrap();
    assert_eq!(others.iova(), address);
    others.copy_from(0, &[1; 4096]).unwrap();
    drop(others);
    assert_eq!(pool.alloc().unwrap().iova(), address);
    checked.said_nothing();
}

#[test]
fn blocks_that_are_out_when_their_pool_is_dropped_are_leaks() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (left, first) = (pool.alloc().unwrap().into_iova(), line());
    let (forgotten, second) = (pool.alloc().unwrap(), line());
    let address = forgotten.iova();
    mem::forget(forgotten);
    drop(pool);
    let leak = |address, line| {
        format!(
            "leak on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address}, rw, from line {line}) was \
             not given back before its pool was dropped"
        )
    };
    assert_eq!(checked.said(), [leak(left, first), leak(address, second)]);
    assert_eq!(check::leaks(), 0, "they were told");
}

#[test]
fn what_lives_is_told_when_asked() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").access(Access::Read).bytes(1).unwrap();
    let (block, line) = (pool.alloc().unwrap(), line());
    assert_eq!(check::leaks(), 1);
    let address = block.iova();
    assert_eq!(
        checked.said(),
        [format!(
            "leak on 0000:00:02.0: the block of pool \"descriptors\" (1 byte at {address}, r-, from line {line}) has not \
             been given back"
        )]
    );
    drop(block);
    assert_eq!(check::leaks(), 0);
}

#[test]
fn a_double_free_names_where_it_was_freed_first() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (address, made) = (pool.alloc().unwrap().into_iova(), line());
    let (freed, first) = (pool.free(address), line());
    assert_eq!(freed, Ok(()));
    checked.said_nothing();
    let (freed, again) = (pool.free(address), line());
    assert_eq!(freed, Err(NotTaken::Free));
    assert_eq!(
        checked.said(),
        [format!(
            "double free on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address}, rw, from line \
             {made}) was given back at line {first}, and again at line {again}"
        )]
    );
}

#[test]
fn addresses_that_are_no_blocks_and_blocks_that_the_driver_holds_are_named() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let (block, made) = (pool.alloc().unwrap(), line());
    let (taken, at) = (pool.take(Iova::new(0x5000)), line());
    assert_eq!(taken.err(), Some(NotTaken::NoBlock));
    assert_eq!(
        checked.said(),
        [format!(
            "unknown address on 0000:00:02.0: 0x5000 was given back at line {at}, and is nothing that was mapped"
        )]
    );
    let address = block.iova();
    let (taken, at) = (pool.take(address), line());
    assert_eq!(taken.err(), Some(NotTaken::Held));
    assert_eq!(
        checked.said(),
        [format!(
            "not the device's on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address}, rw, from line \
             {made}) was to be taken back at line {at}, but the driver holds it"
        )]
    );
}

#[test]
fn a_device_that_writes_to_a_free_block_is_found_when_the_block_is_given_out() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let pool = device.pool("descriptors").bytes(64).unwrap();
        let (address, made) = (pool.alloc().unwrap().into_iova(), line());
        let (_, freed) = (pool.free(address).unwrap(), line());
        machine.device_writes(Iova::new(address.get() + 17), &[0x41, 0x42]).unwrap();
        checked.said_nothing();
        let (block, again) = (pool.alloc().unwrap(), line());
        assert_eq!(block.iova(), address);
        assert_eq!(
            checked.said(),
            [format!(
                "write after free on 0000:00:02.0: the block of pool \"descriptors\" (64 bytes at {address}, rw, from \
                 line {made}) was given back at line {freed} and written since: byte 17 is 0x41, found when it was \
                 given out again at line {again}"
            )]
        );
        drop(block);
        drop(pool.alloc().unwrap());
        checked.said_nothing();
    }
}

#[test]
fn chunks_that_were_given_up_and_come_back_are_not_mistaken_for_written() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(1024).unwrap();
    let other = device.pool("others").bytes(1024).unwrap();
    for _ in 0..3 {
        let blocks: Vec<_> = (0..40).map(|_| pool.alloc().unwrap()).collect();
        drop(blocks);
        pool.shrink();
        let others: Vec<_> = (0..40).map(|_| other.alloc_zeroed().unwrap()).collect();
        drop(others);
        other.shrink();
    }
    checked.said_nothing();
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
        let faults = device.faults().unwrap().faults;
        let [fault] = faults[..] else { panic!("{faults:?}") };
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; it is byte 0 of the block of pool \"commands\" (64 bytes at {address}, r-, \
                 from line {made}), which is mapped, but not for that"
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
        let faults = device.faults().unwrap().faults;
        let [fault] = faults[..] else { panic!("{faults:?}") };
        // VT-d tells no more of an address than its page.
        let offset = fault.address.get() - address.get();
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; it is byte {offset} of the stream \"rx\" (1500 bytes at {address}, -w, from \
                 line {mapped}), which was given back at line {unmapped}"
            )]
        );
        // What was dropped while it was the device's has no line.
        let dropped = stream.buffer(1500).unwrap().map().unwrap();
        let address = dropped.iova();
        drop(dropped);
        assert!(machine.device_writes(address, &[1]).is_err());
        machine.service.lock().poll();
        device.faults().unwrap();
        let said = checked.said();
        assert!(said[0].ends_with("which was given back when it was dropped"), "{said:?}");
    }
}

#[test]
fn a_mapping_is_unmapped_once_and_as_it_is() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.allocate(8192, None, "blocks").unwrap();
        let request = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        let (mapped, made) = (device.map(&[request]).unwrap()[0], line());
        let address = mapped.iova;
        let wrong = Mapped { bytes: 8192, ..mapped };
        let (unmapped, at) = (device.unmap(&[wrong]), line());
        assert_eq!(unmapped, Err(Error::NotMapped));
        let thing =
            format!("the mapping of \"blocks\" (4096 bytes at {address}, r-, from line {made})");
        assert_eq!(
            checked.said(),
            [format!(
                "wrong size on 0000:00:02.0: {thing} was given back as 8192 bytes at {address}, at line {at}"
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
                "double free on 0000:00:02.0: {thing} was given back at line {first}, and again at line {again}"
            )]
        );
        device.map(&[request]).unwrap();
        drop((buffer, device));
        assert_eq!(check::leaks(), 0, "it ended with its buffer");
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
        let fault = device.faults().unwrap().faults[0];
        assert_eq!(
            checked.said(),
            [format!(
                "fault explained: {fault}; it is byte 0 of the mapping of \"firmware\" (4096 bytes at 0x400000, rw, \
                 from line {made}), which was given back at line {unmapped}"
            )]
        );
    }
}

#[test]
fn everything_that_is_forgotten_is_told_with_label_and_place() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let (buffer, first) = (device.allocate(4096, Some(Access::Read), "table").unwrap(), line());
    let (ring, second) = (device.coherent("ring").slice::<u64>(16).unwrap(), line());
    let stream = device.stream::<ToDevice>("tx");
    let (packet, third) = (stream.copy_of(b"packet").unwrap().map().unwrap(), line());
    let mut list = ScatterList::new(&stream);
    list.push_slice(b"header").unwrap();
    let (list, fourth) = (list.map().unwrap(), line());
    let bounced = (stream.map_slice(b"slice").unwrap(), line());
    let (table, at) = (buffer.iova().unwrap(), ring.iova());
    let (sent, segment, slice) = (packet.iova(), list.segments()[0].iova, bounced.0.iova());
    mem::forget((buffer, ring, packet, list));
    let fifth = bounced.1;
    mem::forget(bounced);
    assert_eq!(check::leaks(), 5);
    let begin = "leak on 0000:00:02.0: ";
    assert_eq!(
        checked.said(),
        [
            format!("the buffer \"table\" (4096 bytes at {table}, r-, from line {first})"),
            format!("the coherent memory \"ring\" (128 bytes at {at}, rw, from line {second})"),
            format!("the stream \"tx\" (6 bytes at {sent}, r-, from line {third})"),
            format!("the scatter list \"tx\" (6 bytes at {segment}, r-, from line {fourth})"),
            format!("the stream \"tx\" (5 bytes at {slice}, r-, from line {fifth})"),
        ]
        .map(|thing| format!("{begin}{thing} has not been given back"))
    );
}

#[test]
fn guards_that_are_given_back_are_forgotten() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let held = (
            device.allocate(4096, Some(Access::Read), "table").unwrap(),
            device.coherent("ring").slice::<u64>(16).unwrap(),
        );
        let stream = device.stream::<ToDevice>("tx");
        let buffers = (0..3).map(|_| stream.buffer(64).unwrap()).collect();
        let mut gather = stream.gather(2);
        for buffer in stream.map_all(buffers).unwrap() {
            gather.unmap_later(buffer.sync_for_cpu().sync_for_device()).unwrap();
        }
        let mut list = ScatterList::new(&stream);
        list.push_slice(b"header").unwrap();
        drop(list.map().unwrap().unmap().unwrap());
        stream.map_slice(b"slice").unwrap().unmap().unwrap();
        drop(stream.map_slice(b"slice").unwrap());
        assert_eq!(check::leaks(), 2);
        assert_eq!(checked.said().len(), 2);
        drop(held);
        assert_eq!(check::leaks(), 0);
    }
    checked.said_nothing();
}

#[test]
fn nothing_is_said_and_nothing_known_while_it_is_off() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = device.pool("descriptors").bytes(64).unwrap();
    let before = pool.alloc().unwrap();
    check::turn_off();
    assert!(!check::is_on());
    let block = pool.alloc().unwrap();
    block.write(0, &[0x5a; 64]).unwrap();
    let address = block.into_iova();
    pool.free(address).unwrap();
    assert_eq!(pool.free(address), Err(NotTaken::Free));
    let mut found = [0; 64];
    pool.alloc().unwrap().read(0, &mut found).unwrap();
    assert_eq!(found, [0x5a; 64], "there is no pattern in free blocks");
    assert!(machine.device_writes(Iova::new(0x5000), &[1]).is_err());
    machine.service.lock().poll();
    assert_eq!(device.faults().unwrap().faults.len(), 1);
    let _left = pool.alloc().unwrap().into_iova();
    drop(pool);
    assert_eq!(check::leaks(), 0, "what was known before is forgotten");
    checked.said_nothing();
    // On again, it knows nothing of what is from before.
    check::turn_on();
    drop((before, device));
    checked.said_nothing();
}

#[test]
fn what_the_raw_layer_is_told_wrong_is_named_and_no_more() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let (mut stream, mut other) = (device.raw_stream("rx"), device.raw_stream("other"));
        let access = Access::Write;
        let (address, made) = (stream.map_zeroes(1500, access).unwrap(), line());
        // Of another stream it is nothing; and it stays what it is.
        assert!(other.unmap_single(address, 1500, access).is_err());
        let (_, at) = (stream.sync_single_for_cpu(address, 1501, access).unwrap_err(), line());
        let (_, read) = (stream.cpu_read(address, &mut [0; 4]).unwrap_err(), line());
        let thing =
            format!("the raw mapping \"rx\" (1500 bytes at {address}, -w, from line {made})");
        assert_eq!(
            checked.said(),
            [
                format!(
                    "wrong size on 0000:00:02.0: {thing} was synced as 1501 bytes at {address}, at line {at}"
                ),
                format!(
                    "missing sync on 0000:00:02.0: {thing} was read by the CPU at line {read}, but is the device's \
                     since line {made}"
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
                    "double free on 0000:00:02.0: {thing} was given back at line {first}, and again at line {again}"
                ),
                format!(
                    "use after free on 0000:00:02.0: {thing} was synced at line {used}, but was given back at line \
                     {first}"
                ),
            ]
        );
        // A stream may outlive its device; what is mapped in it at its own end is a leak.
        let (address, made) = (stream.map_zeroes(64, access).unwrap(), line());
        drop(device);
        checked.said_nothing();
        drop(stream);
        assert_eq!(
            checked.said(),
            [format!(
                "leak on 0000:00:02.0: the raw mapping \"rx\" (64 bytes at {address}, -w, from line {made}) was not \
                 unmapped before its stream was dropped"
            )]
        );
        assert_eq!(check::leaks(), 0);
    }
}

/// What reports are handed to may call libdma: it would wait for ever if a lock were held.
#[test]
fn what_is_told_may_ask() {
    static POOL: Mutex<Option<Arc<Pool<[u8]>>>> = Mutex::new(None);
    fn ask(report: &Report) {
        collect(report);
        let pool = POOL.lock().unwrap().clone();
        if let Some(pool) = pool {
            drop(pool.alloc().unwrap());
            assert!(pool.free(pool.alloc().unwrap().into_iova()).is_ok());
        }
        check::on_report(collect);
    }
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let pool = Arc::new(device.pool("descriptors").bytes(64).unwrap());
    *POOL.lock().unwrap() = Some(pool.clone());
    let mut stream = device.raw_stream("rx");
    let tell = |wrong: &mut dyn FnMut()| {
        check::on_report(ask);
        wrong();
        assert_eq!(checked.said().len(), 1);
    };
    tell(&mut || assert!(pool.take(Iova::new(1)).is_err()));
    tell(&mut || assert!(stream.cpu_read(Iova::new(1), &mut [0]).is_err()));
    let left = pool.alloc().unwrap().into_iova();
    pool.free(left).unwrap();
    machine.device_writes(left, &[1]).unwrap();
    tell(&mut || drop(pool.alloc().unwrap()));
    let held = pool.alloc().unwrap();
    tell(&mut || assert_eq!(check::leaks(), 1));
    drop(held);
    *POOL.lock().unwrap() = None;
}

#[test]
fn the_environment_has_the_last_word() {
    /// Set in the processes that this test starts of itself, which say whether the checker is on.
    const ASKED: &str = "IS_LIBDMA_CHECK_ON";
    if env::var_os(ASKED).is_some() {
        println!("on: {}", check::is_on());
        return;
    }
    let on = |value: Option<&str>| {
        let mut run = Command::new(env::current_exe().unwrap());
        run.args(["--exact", "the_environment_has_the_last_word", "--nocapture"]).env(ASKED, "");
        run.env_remove("LIBDMA_CHECK").envs(value.map(|value| ("LIBDMA_CHECK", value)));
        let said = String::from_utf8(run.output().unwrap().stdout).unwrap();
        assert!(said.contains("on: "), "{said}");
        said.contains("on: true")
    };
    assert_eq!((on(Some("1")), on(Some("0"))), (true, false));
    for value in [None, Some("yes"), Some("")] {
        assert_eq!(on(value), cfg!(debug_assertions), "{value:?}");
    }
}
