//! A domain of one page, and who may do what in it.

use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::{PAGE_SIZE, PhysAddr, SourceId};
use iommu_engine::platform::{BufferRuns, TableFrames};

use super::by_hand::{
    ContextEntry, RootEntry, SecondStageEntry, Unit, check_fault, write_entry, write_word,
};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome};
use crate::platform::Metal;
use crate::require;

/// The device's page, which is at another address in memory.
const IOVA: u64 = 0x1234_5000;
/// A page that nothing is mapped at.
const OUTSIDE: u64 = 0x7654_3000;
/// Not zero: a unit in caching mode keeps that for itself (VT-d spec 6.1).
const DOMAIN: u16 = 1;
/// Fault reasons (VT-d spec 7.1.3).
const WRITE_NOT_ALLOWED: u8 = 5;
const READ_NOT_ALLOWED: u8 = 6;

type Pattern = [u8; 64];

pub(super) fn blocked_dma_is_reported_with_device_address_and_direction(
    context: &mut Context,
) -> Outcome {
    let platform = context.platform();
    let unit = Unit::find(platform)?;
    let edu = Edu::find(platform)?;
    let run = platform.alloc_run(PAGE_SIZE).ok_or(Failure("no run".into()))?;
    let page = platform.run_pointer(run).ok_or(Failure("no pointer".into()))?;
    let start = platform.segments(run).first().map(|segment| segment.start).unwrap_or_default();
    let mut frames = Vec::new();
    let mut outcome = Ok(());
    for levels in unit.levels() {
        outcome = outcome.and_then(|()| {
            let root = build(platform, &mut frames, edu.requester(), levels, start)?;
            unit.turn_on(platform, root)?;
            check(platform, &unit, &edu, page, start)
                .map_err(|Failure(why)| Failure(alloc::format!("with {levels} levels: {why}")))
        });
    }
    // Off and given back, however it went: the next case wants a machine that was not touched.
    let off = unit.turn_off(platform);
    frames.into_iter().for_each(|frame| platform.free_frame(frame));
    platform.free_run(run);
    outcome.and(off)
}

/// Builds the tables that let `source` see the page at `target` at [`IOVA`], and nothing else.
fn build(
    platform: &mut Metal,
    frames: &mut Vec<PhysAddr>,
    source: SourceId,
    levels: u8,
    target: PhysAddr,
) -> Outcome<PhysAddr> {
    let mut frame = || {
        let frame = platform.alloc_frame().ok_or(Failure("no frame".into()))?;
        frames.push(frame);
        Ok::<_, Failure>(frame)
    };
    let (root, context, mut table) = (frame()?, frame()?, frame()?);
    let lower = (1..levels).map(|_| frame()).collect::<Outcome<Vec<_>>>()?;

    let entry = RootEntry::new().with_present(true).with_context_page(context.get() >> 12);
    write_entry(platform, root, source.bus().into(), entry)?;
    let entry = ContextEntry::new()
        .with_present(true)
        .with_table_page(table.get() >> 12)
        .with_width(levels - 2)
        .with_domain(DOMAIN);
    write_entry(platform, context, source.devfn().into(), entry)?;
    for (level, next) in (0..levels).rev().zip(lower.into_iter().chain([target])) {
        let index = (IOVA >> (12 + 9 * level)) as usize % 512;
        let entry =
            SecondStageEntry::new().with_read(true).with_write(true).with_page(next.get() >> 12);
        write_word(platform, table, index, entry.into_bits())?;
        table = next;
    }
    Ok(root)
}

/// Transfers inside the domain arrive, transfers outside do not and are reported.
fn check(
    platform: &mut Metal,
    unit: &Unit,
    edu: &Edu,
    page: NonNull<u8>,
    start: PhysAddr,
) -> Outcome {
    let source = edu.requester();
    let bytes = size_of::<Pattern>() as u64;
    let pattern: Pattern = core::array::from_fn(|at| at as u8 ^ 0x5a);
    let sent = page.cast::<Pattern>();
    // SAFETY: both are in the page, which is the case's own.
    let back = unsafe { sent.add(16) };
    let back_offset = 16 * bytes;
    // SAFETY: as above.
    unsafe {
        sent.write_volatile(pattern);
        back.write_volatile([0; 64]);
    }
    require!(unit.take_fault(platform).is_none(), "there is a fault before any transfer");

    edu.transfer(platform, Direction::ToDevice, IOVA, bytes)?;
    edu.transfer(platform, Direction::FromDevice, IOVA + back_offset, bytes)?;
    // SAFETY: as above.
    let found = unsafe { back.read_volatile() };
    require!(found == pattern, "{found:x?} came back");
    let fault = unit.take_fault(platform);
    require!(fault.is_none(), "a transfer inside the domain faults: {fault:?}");

    edu.transfer(platform, Direction::FromDevice, OUTSIDE, bytes)?;
    check_fault(unit.take_fault(platform), source, OUTSIDE, WRITE_NOT_ALLOWED, false)?;
    edu.transfer(platform, Direction::ToDevice, OUTSIDE, bytes)?;
    check_fault(unit.take_fault(platform), source, OUTSIDE, READ_NOT_ALLOWED, true)?;

    // A blocked write must not have gone to the address as it stands either. There is no memory there on
    // this machine, but at the page's own address there is.
    // SAFETY: as above.
    unsafe { back.write_volatile([0; 64]) };
    let own = start.get();
    edu.transfer(platform, Direction::FromDevice, own + back_offset, bytes)?;
    check_fault(unit.take_fault(platform), source, own, WRITE_NOT_ALLOWED, false)?;
    // SAFETY: as above.
    let found = unsafe { back.read_volatile() };
    require!(found == [0; 64], "a blocked write arrived: {found:x?}");
    Ok(())
}
