//! The ground that all other cases stand on.

use alloc::vec;
use alloc::vec::Vec;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, Platform, PlatformError, Registers, RunId, TableFrames,
};

use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome, Suite};
use crate::memory::layout::{BUFFERS, HEAP, TABLES};
use crate::memory::physical;
use crate::platform::clock::{Timer, spin};
use crate::{cases, require};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "bare",
    cases: cases![
        hello,
        the_heap_takes_memory_back,
        the_clock_keeps_the_timers_pace,
        entropy_is_not_repeated,
        table_frames_come_zeroed_and_only_from_their_arena,
        buffers_are_contiguous_for_the_cpu_and_scattered_in_memory,
        large_buffers_are_aligned_for_large_pages,
        registers_past_a_window_read_as_ones,
        absent_functions_read_as_ones,
        edu_moves_data_both_ways_untranslated,
    ],
};

fn hello(context: &mut Context) -> Outcome {
    require!(!context.start_info.command_line.is_empty(), "no command line");
    require!(context.platform().in_use().frames == 0, "frames are in use before any case");
    Ok(())
}

fn the_heap_takes_memory_back(_: &mut Context) -> Outcome {
    const BLOCK: usize = 1 << 20;
    // Three times what the heap holds, in blocks of changing sizes.
    for round in 0..3 * HEAP.bytes as usize / BLOCK {
        let block = vec![round as u8; BLOCK + round * 64];
        require!(block[round] == round as u8, "round {round} reads {}", block[round]);
    }
    Ok(())
}

fn the_clock_keeps_the_timers_pace(context: &mut Context) -> Outcome {
    let clock = *context.platform().clock();
    let (from, _) = clock.timer().with_counter();
    let start = clock.now();
    let mut last = start;
    while clock.now().since(start).as_millis() < 20 {
        let now = clock.now();
        require!(now >= last, "the clock went back from {last:?} to {now:?}");
        last = now;
        spin();
    }
    let clocked = clock.now().since(start).as_nanos() as i128;
    let timed = i128::from(Timer::nanoseconds(from, clock.timer().with_counter().0));
    // The host may take a while between the readings of the two. Twice the time or half of it would be
    // a clock that cannot be trusted with deadlines.
    let sane = timed / 2 < clocked && clocked < timed * 2;
    require!(sane, "the clock says {clocked} ns, the timer {timed} ns");
    Ok(())
}

fn entropy_is_not_repeated(context: &mut Context) -> Outcome {
    let (one, other) = (context.platform().entropy(), context.platform().entropy());
    require!(one != other && one != [0; 16], "{one:x?} and then {other:x?}");
    Ok(())
}

fn table_frames_come_zeroed_and_only_from_their_arena(context: &mut Context) -> Outcome {
    let platform = context.platform();
    let mut frames = Vec::new();
    for round in 0..64 {
        let frame = platform.alloc_frame().ok_or(Failure("no frame".into()))?;
        require!(TABLES.holds(frame, PAGE_SIZE), "{frame} is not in the arena");
        require!(!frames.contains(&frame), "{frame} is given out twice");
        require!(frame != platform.header_frame(), "the header frame is given out");
        let table = platform.table(frame).ok_or(Failure("a frame without a table".into()))?;
        for word in table {
            let found = word.swap(round, core::sync::atomic::Ordering::Relaxed);
            require!(found == 0, "{frame} comes with {found:#x} in it");
        }
        platform.flush_entries(frame, 7..9);
        // Some go back in between and come again.
        if round % 3 == 0 { platform.free_frame(frame) } else { frames.push(frame) }
    }
    for outside in [TABLES.start.get() - 4096, TABLES.end().get(), TABLES.start.get() + 8] {
        require!(platform.table(PhysAddr::new(outside)).is_none(), "{outside:#x} is a table");
    }
    frames.into_iter().for_each(|frame| platform.free_frame(frame));
    Ok(())
}

/// Writes each word's number into a run through the CPU's view, and reads it through its segments.
fn check_views(context: &mut Context, run: RunId, bytes: u64) -> Outcome {
    let view =
        context.platform().run_pointer(run).ok_or(Failure("no pointer".into()))?.cast::<u64>();
    for word in 0..bytes as usize / 8 {
        // SAFETY: the run is `bytes` long and nobody else looks at it.
        let found = unsafe { view.add(word).replace(word as u64) };
        require!(found == 0, "word {word} comes with {found:#x} in it");
    }
    let mut word = 0;
    for segment in context.platform().segments(run) {
        let held = BUFFERS.holds(segment.start, segment.bytes);
        require!(held, "the segment at {} is not in the arena", segment.start);
        let start = physical::pointer(segment.start, segment.bytes)
            .ok_or(Failure("a segment that is not mapped".into()))?
            .cast::<u64>();
        for at in 0..segment.bytes as usize / 8 {
            // SAFETY: the segment is mapped to itself too, and holds words.
            let found = unsafe { start.add(at).read_volatile() };
            require!(found == word, "word {word} reads {found} through its segment");
            word += 1;
        }
    }
    require!(word * 8 == bytes, "the segments are {} bytes of {bytes}", word * 8);
    Ok(())
}

fn buffers_are_contiguous_for_the_cpu_and_scattered_in_memory(context: &mut Context) -> Outcome {
    for (pages, pieces) in [(1, 1), (2, 2), (5, 2), (700, 2), (512, 1)] {
        // Twice, so that the second is what the first left.
        for _ in 0..2 {
            let bytes = pages * PAGE_SIZE;
            let run = context.platform().alloc_run(bytes).ok_or(Failure("no run".into()))?;
            check_views(context, run, bytes)?;
            let segments = context.platform().segments(run).len();
            require!(segments == pieces, "{pages} pages are {segments} pieces");
            context.platform().free_run(run);
            require!(context.platform().segments(run).is_empty(), "a freed run has segments");
        }
    }
    for bytes in [0, 1, 4097, BUFFERS.bytes * 2, !0xfff] {
        require!(context.platform().alloc_run(bytes).is_none(), "a run of {bytes} bytes");
    }
    Ok(())
}

fn large_buffers_are_aligned_for_large_pages(context: &mut Context) -> Outcome {
    let small = context.platform().alloc_run(PAGE_SIZE).ok_or(Failure("no small run".into()))?;
    let large = context.platform().alloc_run(4 << 20).ok_or(Failure("no large run".into()))?;
    let start = context.platform().segments(large).first().map(|segment| segment.start);
    context.platform().free_run(small);
    context.platform().free_run(large);
    require!(start.is_some_and(|start| start.is_aligned(2 << 20)), "4 MiB start at {start:?}");
    Ok(())
}

fn registers_past_a_window_read_as_ones(context: &mut Context) -> Outcome {
    // The local APIC: its version register, at 0x30, is never zero nor all ones.
    let base = PhysAddr::new(0xfee0_0000);
    let platform = context.platform();
    let window = platform.map_registers(base, 0x34)?;
    let version = platform.read32(window, 0x30);
    require!(version != 0 && version != u32::MAX, "the APIC's version reads {version:#x}");
    for offset in [0x32, 0x34, usize::MAX] {
        require!(platform.read32(window, offset) == u32::MAX, "{offset:#x} is readable");
    }
    require!(platform.read64(window, 0x30) == u64::MAX, "a quadword over the end is readable");
    for base in [PhysAddr::new(0), TABLES.start, PhysAddr::new(1 << 32), PhysAddr::new(u64::MAX)] {
        let refused = platform.map_registers(base, 4096) == Err(PlatformError::Registers(base));
        require!(refused, "registers at {base} are mapped");
    }
    Ok(())
}

fn absent_functions_read_as_ones(context: &mut Context) -> Outcome {
    let address =
        |segment, bus, device| PciAddress::new(segment, bus, device, 0).unwrap_or_default();
    let host = context.platform().config_read(address(0, 0, 0), 0);
    require!(host & 0xffff == 0x8086, "00:00.0 is {host:#x}, and no Intel bridge");
    for absent in [address(0, 0xfe, 0), address(1, 0, 0)] {
        let found = context.platform().config_read(absent, 0);
        require!(found == u32::MAX, "{absent} reads {found:#x}");
    }
    // The bridge is conventional PCI, and has no more than 256 bytes.
    let extended = context.platform().config_read(address(0, 0, 0), 0x100);
    require!(extended == u32::MAX, "extended configuration space reads {extended:#x}");
    Ok(())
}

fn edu_moves_data_both_ways_untranslated(context: &mut Context) -> Outcome {
    const BYTES: usize = 64;
    let platform = context.platform();
    let edu = Edu::find(platform)?;
    let run = platform.alloc_run(PAGE_SIZE).ok_or(Failure("no run".into()))?;
    let pointer = platform.run_pointer(run).ok_or(Failure("no pointer".into()))?;
    let address = platform.segments(run).first().map_or(0, |segment| segment.start.get());
    let pattern: [u8; BYTES] = core::array::from_fn(|at| at as u8 ^ 0xa5);
    let sent = pointer.cast::<[u8; BYTES]>();
    // SAFETY: the run is a page, and what comes back goes to another place in it.
    let back = unsafe { sent.add(8) };
    // SAFETY: as above.
    unsafe { sent.write_volatile(pattern) };
    edu.transfer(platform, Direction::ToDevice, address, BYTES as u64)?;
    edu.transfer(platform, Direction::FromDevice, address + 8 * BYTES as u64, BYTES as u64)?;
    // SAFETY: as above.
    let found = unsafe { back.read_volatile() };
    platform.free_run(run);
    require!(found == pattern, "{found:x?} came back");
    Ok(())
}
