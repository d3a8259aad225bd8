//! What has not been given back.

use core::ptr::NonNull;
use std::{mem, slice};

use libdma::declared::{DeviceMemory, Mode};
use libdma::protocol::Rights;
use libdma::{
    Access, Device, ForeignMemory, FromDevice, Iova, MapRequest, ScatterList, SharedBuffer,
    StreamBuffer, ToDevice, check,
};
use simulated::Machine;

use crate::{Checked, line};

#[test]
fn a_pool_and_its_blocks_are_told_as_long_as_they_live() {
    let checked = Checked::begin();
    let machine = Machine::vtd();
    let device = machine.open();
    let (pool, made) = (device.pool("descriptors").access(Access::Read).bytes(1).unwrap(), line());
    let (block, line) = (pool.alloc().unwrap(), line());
    assert_eq!(check::leaks(), 2);
    let address = block.iova();
    assert_eq!(
        checked.said(),
        [
            format!("the pool \"descriptors\" (made at line {made}) has not been dropped"),
            format!(
                "the block of pool \"descriptors\" (1 byte at {address} that the device may read, allocated at line \
                 {line}) has not been given back"
            ),
        ]
        .map(|it| format!("leak on 0000:00:02.0: {it}"))
    );
    drop(block);
    assert_eq!(check::leaks(), 1);
    drop(pool);
    assert_eq!(check::leaks(), 0);
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
            format!("the buffer \"table\" (4096 bytes at {table} that the device may read, allocated at line {first}) \
                has not been given back"),
            format!("the coherent memory \"ring\" (128 bytes at {at} that the device may read and write, allocated at \
                line {second}) has not been given back"),
            format!("the stream \"tx\" (6 bytes at {sent} that the device may read, mapped at line {third}) has not \
                been unmapped"),
            format!("the scatter list \"tx\" (6 bytes at {segment} that the device may read, mapped at line {fourth}) \
                has not been unmapped"),
            format!("the stream \"tx\" (5 bytes at {slice} that the device may read, mapped at line {fifth}) has not \
                been unmapped"),
        ]
        .map(|thing| format!("{begin}{thing}"))
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
        drop(gather);
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

/// That one thing is told, and nothing else. It is forgotten then.
#[track_caller]
fn told(checked: &Checked, thing: &str) {
    assert_eq!(check::leaks(), 1, "{:?}", checked.said());
    assert_eq!(checked.said(), [format!("leak on 0000:00:02.0: {thing}")]);
    forget();
}

fn forget() {
    check::turn_off();
    check::turn_on();
}

fn each(act: impl Fn(&Checked, &Machine, &Device)) {
    let checked = Checked::begin();
    for machine in Machine::each() {
        act(&checked, &machine, &machine.open());
        forget();
    }
}

#[test]
fn a_buffer_that_this_process_does_not_see_is_told_and_one_that_it_came_to_see_once() {
    each(|checked, _, device| {
        let film = || {
            let access = Some(Access::Write);
            device.buffer("film").access(access).allocate_unmapped(8192).unwrap()
        };
        let here = line() - 2;
        for is_mapped in [false, true] {
            let film = film();
            let address = film.iova().unwrap();
            match is_mapped {
                true => mem::forget(film.map().unwrap()),
                false => mem::forget(film),
            }
            told(
                checked,
                &format!(
                    "the buffer \"film\" (8192 bytes at {address} that the device may write, allocated at line \
                     {here}) has not been given back"
                ),
            );
        }
        drop(film());
        drop(film().map().unwrap());
        assert_eq!(check::leaks(), 0);
    });
}

#[test]
fn registered_memory_is_told() {
    #[repr(C, align(4096))]
    struct Pages([u8; 8192]);
    each(|checked, _, device| {
        let pages = NonNull::from(Box::leak(Box::new(Pages([0; 8192])))).cast::<u8>();
        let range = NonNull::slice_from_raw_parts(pages, 8192);
        // SAFETY: it was leaked just now, and nothing refers to it any more.
        let memory = unsafe { ForeignMemory::from_range(range) }.unwrap();
        assert_eq!(check::leaks(), 0, "it is no memory for a device yet");
        let (buffer, at) = (device.register(memory, None, "cache").unwrap(), line());
        mem::forget(buffer);
        told(
            checked,
            &format!(
                "the buffer \"cache\" (8192 bytes, allocated at line {at}) has not been given back"
            ),
        );
    });
}

#[test]
fn declared_memory_is_told_until_it_is_released_and_its_buffer_once() {
    each(|checked, _, device| {
        let buffer = device.allocate(8192, Some(Access::ReadWrite), "its own").unwrap();
        let address = buffer.iova().unwrap();
        let (_, at) = (device.declare_memory(buffer.into(), Mode::First).unwrap(), line());
        let sentence = format!(
            "the declared memory \"its own\" (8192 bytes at {address} that the device may read and write, declared \
             at line {at}) has not been released"
        );
        assert_eq!(check::leaks(), 1);
        assert_eq!(checked.said(), [format!("leak on 0000:00:02.0: {sentence}")]);
        let buffer = device.release_declared_memory().unwrap();
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the buffer \"its own\""));
        drop(buffer);
        assert_eq!(check::leaks(), 0);

        #[repr(C, align(4096))]
        struct Page([u8; 4096]);
        let page = NonNull::from(Box::leak(Box::new(Page([0; 4096])))).cast();
        // SAFETY: it was leaked just now, and nothing refers to it any more.
        let local = unsafe { DeviceMemory::local(page, 4096, Iova::new(0x1000)) };
        let (_, at) = (device.declare_memory(local, Mode::First).unwrap(), line());
        told(
            checked,
            &format!(
                "the declared memory \"the device's own\" (4096 bytes at 0x1000, declared at line {at}) has not been \
                 released"
            ),
        );
    });
}

#[test]
fn what_is_shared_and_attached_is_told() {
    each(|checked, machine, device| {
        let rights = Rights::READ | Rights::INSPECT | Rights::SHARE;
        let frames = device.allocate(8192, None, "frames").unwrap();
        let film = device.buffer("film").allocate_unmapped(8192).unwrap();
        let (number, handle) = (frames.id(), frames.share(rights).unwrap());
        forget();
        let (shared, at) = (SharedBuffer::from_handle(handle).unwrap(), line());
        assert_eq!(check::leaks(), 1);
        let sentence = format!(
            "leak: the shared memory of \"buffer {number}\" (8192 bytes, mapped at line {at}) has not been unmapped"
        );
        assert_eq!(checked.said(), [sentence]);
        // To another device: without an IOMMU a buffer is only at its one address.
        let other = machine.open_at(simulated::second_edu()).unwrap();
        forget();
        for kind in 0..3 {
            let (attached, at) = match kind {
                0 => (shared.attach(&other, Access::Read, "pictures").unwrap(), line()),
                1 => (frames.attach(&other, Access::Read, "pictures").unwrap(), line()),
                _ => (film.attach(&other, Access::Read, "pictures").unwrap(), line()),
            };
            let address = attached.io_address().for_device(&other).unwrap();
            assert_eq!(check::leaks(), 1);
            assert_eq!(
                checked.said(),
                [format!(
                    "leak on {}: the attachment \"pictures\" (8192 bytes at {address} that the device may read, \
                     attached at line {at}) has not been dropped",
                    other.address()
                )]
            );
            drop(attached);
            assert_eq!(check::leaks(), 0);
        }
        let ticket = device.offer_bar(0, 0, 4096, Access::Write).unwrap();
        let (window, at) = (other.attach(&ticket, Access::Write, "doorbells").unwrap(), line());
        mem::forget(window);
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains(&format!("attached at line {at})")));
        drop(shared);
    });
}

#[test]
fn a_domain_and_a_device_that_is_in_it_are_told() {
    let checked = Checked::begin();
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let (domain, at) = (device.new_domain("fixed").create().unwrap(), line());
        let sentence = |what: String| format!("leak on 0000:00:02.0: {what}");
        let of_domain =
            sentence(format!("the domain \"fixed\" (made at line {at}) has not been dropped"));
        let (stay, at) = (domain.attach(&device).unwrap(), line());
        let of_stay = sentence(format!(
            "the device's stay in domain \"fixed\" (begun at line {at}) has not ended"
        ));
        assert_eq!(check::leaks(), 2);
        assert_eq!(checked.said(), [of_domain.clone(), of_stay]);
        stay.leave().unwrap();
        assert_eq!(check::leaks(), 1);
        assert_eq!(checked.said(), [of_domain]);

        // By a ticket the name is not told.
        let (stay, at) = (device.enter(&domain.ticket().unwrap()).unwrap(), line());
        assert_eq!(check::leaks(), 2);
        let of_stay = format!(
            "the device's stay in domain \"{}\" (begun at line {at}) has not ended",
            domain.id()
        );
        assert_eq!(checked.said()[1], sentence(of_stay));
        drop(stay);
        let stay = domain.attach(&device).unwrap();
        drop(domain);
        assert_eq!(check::leaks(), 0, "the stay ended with the domain");
        drop(stay);
    }
}

/// What is forgotten of a stream buffer at each of its turns: the memory, or what is mapped, but never both.
#[test]
fn streaming_memory_is_told_once_whosever_turn_it_is() {
    each(|checked, _, device| {
        for strict in [false, true] {
            let mut stream = device.stream::<FromDevice>("rx");
            if strict {
                stream = stream.strict();
            }
            let memory = |at| {
                format!(
                    "the streaming memory \"rx\" (1500 bytes, allocated at line {at}) has not been given back"
                )
            };
            let (buffer, made) = (stream.buffer(1500).unwrap(), line());
            assert_eq!(check::leaks(), 1);
            assert_eq!(checked.said(), [format!("leak on 0000:00:02.0: {}", memory(made))]);
            let (buffer, mapped) = (buffer.map().unwrap(), line());
            let sentence = format!(
                "leak on 0000:00:02.0: the stream \"rx\" (1500 bytes at {} that the device may write, mapped at line \
                 {mapped}) has not been unmapped",
                buffer.iova()
            );
            assert_eq!(check::leaks(), 1);
            assert_eq!(checked.said(), [sentence]);
            let buffer = buffer.sync_for_cpu();
            assert_eq!((check::leaks(), checked.said().len()), (1, 1));
            mem::forget(buffer.unmap().unwrap());
            told(checked, &memory(made));
            let (copy, made) = (stream.copy_of(&[7; 1500]).unwrap(), line());
            mem::forget(copy);
            told(checked, &memory(made));
            // What it is again, when it is the driver's buffer.
            let (buffer, made) = (stream.buffer(4096).unwrap(), line());
            match buffer.into_buffer() {
                Ok(buffer) => mem::forget(buffer),
                Err(refused) => mem::forget(refused),
            }
            told(
                checked,
                &format!(
                    "the streaming memory \"rx\" (4096 bytes, allocated at line {made}) has not been given back"
                ),
            );
        }
        drop(device.stream::<ToDevice>("tx").buffer(64).unwrap().map().unwrap());
        assert_eq!(check::leaks(), 0);
    });
}

#[test]
fn an_adopted_buffer_is_told_once_too() {
    each(|checked, _, device| {
        let (buffer, made) = (device.allocate(4096, None, "cache").unwrap(), line());
        let stream = device.stream::<FromDevice>("rx");
        let adopted = stream.adopt(buffer);
        let buffer_lives = format!(
            "leak on 0000:00:02.0: the buffer \"cache\" (4096 bytes, allocated at line {made}) has not been given back"
        );
        assert_eq!(check::leaks(), 1);
        assert_eq!(checked.said(), slice::from_ref(&buffer_lives));
        let mapped = adopted.map().unwrap();
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the stream \"rx\""));
        let buffer = mapped.unmap().unwrap().into_buffer().unwrap();
        assert_eq!(check::leaks(), 1);
        assert_eq!(checked.said(), [buffer_lives]);
        drop(buffer);
        assert_eq!(check::leaks(), 0);
    });
}

#[test]
fn of_a_list_and_the_buffers_in_it_only_the_list_is_told_while_it_is_mapped() {
    each(|checked, _, device| {
        let stream = device.stream::<ToDevice>("tx");
        let mut lent: StreamBuffer<ToDevice> = stream.buffer(64).unwrap();
        let mut list = ScatterList::new(&stream);
        list.push(stream.buffer(64).unwrap()).unwrap();
        list.lend(&mut lent, 0..64).unwrap();
        assert_eq!(check::leaks(), 2);
        assert!(checked.said().iter().all(|it| it.contains("the streaming memory \"tx\"")));
        let list = list.map().unwrap();
        let segments = list.segments().len();
        assert_eq!(check::leaks(), segments);
        assert!(checked.said().iter().all(|it| it.contains("the scatter list \"tx\"")));
        drop(list.unmap().unwrap());
        drop(lent);
        assert_eq!(check::leaks(), 0);
    });
}

#[test]
fn what_is_gathered_is_told() {
    each(|checked, _, device| {
        let stream = device.stream::<FromDevice>("rx").strict();
        let mut gather = stream.gather(8);
        gather.unmap_later(stream.buffer(64).unwrap().map().unwrap()).unwrap();
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the stream \"rx\""));
        gather.flush().unwrap();
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the streaming memory \"rx\""));
        mem::forget(gather);
        assert_eq!((check::leaks(), checked.said().len()), (1, 1));
    });
}

#[test]
fn what_is_mapped_by_hand_is_told_as_its_buffer_and_a_raw_stream_that_is_forgotten_by_what_is_in_it()
 {
    each(|checked, _, device| {
        let buffer = device.allocate(4096, None, "blocks").unwrap();
        let all = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
        device.map(&[all]).unwrap();
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the buffer \"blocks\""));
        drop(buffer);
        let mut stream = device.raw_stream("raw");
        let _ = stream.map_zeroes(64, Access::Write).unwrap();
        mem::forget(stream);
        assert_eq!(check::leaks(), 1);
        assert!(checked.said()[0].contains("the raw mapping \"raw\""));
    });
}

#[test]
fn a_buffer_is_told_however_it_was_allocated() {
    each(|checked, _, device| {
        let access = Some(Access::Read);
        let allocated = [
            (device.allocate(4096, access, "table").unwrap(), line()),
            (device.buffer("table").access(access).align(8192).allocate(4096).unwrap(), line()),
            (device.buffer("table").access(access).contiguous().allocate(4096).unwrap(), line()),
        ];
        for (buffer, at) in allocated {
            let told = format!("allocated at line {at})");
            check::leaks();
            assert!(checked.said()[0].contains(&told));
            drop(buffer);
        }
        assert_eq!(check::leaks(), 0);
    });
}

#[test]
fn what_a_forgotten_list_had_is_no_leak_of_the_lists_when_it_was_taken_back() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let stream = device.stream::<FromDevice>("rx").strict();
        let mut buffer = stream.buffer(64).unwrap();
        let mut list = ScatterList::new(&stream);
        list.lend(&mut buffer, 0..64).unwrap();
        let list = list.map().unwrap();
        let address = list.segments()[0].iova;
        mem::forget(list);
        assert_eq!(check::leaks(), 1);
        let said = checked.said().remove(0);
        assert!(said.contains("the scatter list \"rx\""), "{said}");
        let (_, taken) = (buffer.take_back().unwrap(), line());
        assert_eq!(check::leaks(), 1);
        let said = checked.said().remove(0);
        assert!(said.contains("the streaming memory \"rx\""), "{said}");
        if device.is_confined() {
            assert!(machine.device_writes(address, &[1]).is_err());
            machine.service.lock().poll();
            device.events().unwrap();
            let said = checked.said().remove(0);
            assert!(said.ends_with(&format!("which was unmapped at line {taken}")), "{said}");
        }
        drop(buffer);
        assert_eq!(check::leaks(), 0);
    }
}
