//! The checker, where there is no standard library: what a driver and its device do wrong is named.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use iommu_engine::fault::Tried;
use libdma::check::Place;
use libdma::pool::NotTaken;
use libdma::{Access, Device, Error, FromDevice, MapRequest, RawError, check};
use spin::Mutex;

use super::rig::{Rig, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::require;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether one thing was said since this was last asked: this of the device and of what is called so, with all of these
/// places in the code.
fn said(what: &str, rig: &Rig, label: &str, places: &[Place]) -> Outcome {
    let said = mem::take(&mut *SAID.lock());
    let [sentence] = &said[..] else {
        return Err(Failure(format!("the checker says {said:?} and not one {what}")));
    };
    let device = rig.edu.function().to_string();
    require!(sentence.starts_with(what), "the checker says, not of a {what}: {sentence}");
    require!(sentence.contains(&device), "the checker says, not of {device}: {sentence}");
    require!(sentence.contains(&format!("\"{label}\"")), "the checker says: {sentence}");
    for place in places {
        let named = sentence.contains(&place.to_string());
        require!(named, "the checker says, without {place}: {sentence}");
    }
    Ok(())
}

pub(in crate::cases) fn the_checker_names_what_is_wrong(context: &mut Context) -> Outcome {
    check::turn_on();
    check::on_report(|report| SAID.lock().push(report.to_string()));
    SAID.lock().clear();
    let outcome = with_service(context, misuse);
    check::turn_off();
    outcome
}

fn misuse(rig: &Rig) -> Outcome {
    let device = rig.open()?;
    blocks(rig, &device)?;
    forgotten(rig, &device)?;
    mappings(rig, &device)?;
    raw(rig, &device)?;
    if rig.hardware().tells_what_it_blocks() {
        after_unmap(rig, &device)?;
    }
    let lives = check::leaks();
    require!(lives == 0, "the checker says: {:?}", SAID.lock());
    Ok(())
}

/// Blocks of a pool, given back twice, and written by the device that does not know of it.
fn blocks(rig: &Rig, device: &Device) -> Outcome {
    let pool = device.pool("descriptors").bytes(64)?;
    let (block, made) = (pool.alloc_zeroed()?, Place::here());
    rig.transfer(Direction::ToDevice, block.iova().get(), 64)?;
    let address = block.into_address();
    let (freed, first) = (pool.free(address), Place::here());
    require!(freed.is_ok(), "it cannot be freed: {freed:?}");
    let (freed, again) = (pool.free(address), Place::here());
    require!(freed == Err(NotTaken::Free), "freed twice: {freed:?}");
    said("double free on", rig, "descriptors", &[made, first, again])?;

    rig.transfer(Direction::FromDevice, address.iova().get(), 16)?;
    let (block, again) = (pool.alloc()?, Place::here());
    require!(block.iova() == address.iova(), "it is another block");
    said("write after free on", rig, "descriptors", &[made, first, again])
}

fn forgotten(rig: &Rig, device: &Device) -> Outcome {
    let (ring, made) = (device.coherent("ring").bytes(64)?, Place::here());
    let lives = check::leaks();
    require!(lives == 1, "the checker says: {:?}", SAID.lock());
    said("leak on", rig, "ring", &[made])?;
    drop(ring);
    let stream = device.stream::<FromDevice>("rx");
    let (buffer, made) = (stream.buffer(64)?, Place::here());
    check::leaks();
    said("leak on", rig, "rx", &[made])?;
    let (_buffer, made) = (buffer.map()?, Place::here());
    check::leaks();
    said("leak on", rig, "rx", &[made])
}

fn mappings(rig: &Rig, device: &Device) -> Outcome {
    let buffer = device.allocate(8192, None, "pieces")?;
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    let (mapped, made) = (device.map(&[piece])?, Place::here());
    let twice = [mapped.as_slice(), mapped.as_slice()].concat();
    let (refused, at) = (device.unmap(&twice), Place::here());
    require!(refused == Err(Error::NotMapped), "unmapped twice at once: {refused:?}");
    said("double unmap on", rig, "pieces", &[made, at])?;
    let (done, first) = (device.unmap(&mapped), Place::here());
    done?;
    let (refused, again) = (device.unmap(&mapped), Place::here());
    require!(refused == Err(Error::NotMapped), "unmapped twice: {refused:?}");
    said("double unmap on", rig, "pieces", &[made, first, again])
}

/// What the raw layer is told wrong; and that data goes both ways by it all the same.
fn raw(rig: &Rig, device: &Device) -> Outcome {
    let mut stream = device.raw_stream("raw");
    let there = stream.map_single(b"sixteen bytes ..", Access::Read)?;
    let (back, made) = (stream.map_zeroes(16, Access::Write)?, Place::here());
    rig.transfer(Direction::ToDevice, there.iova().get(), 16)?;
    rig.transfer(Direction::FromDevice, back.iova().get(), 16)?;

    let mut found = [0; 16];
    let (refused, at) = (stream.cpu_read(back, &mut found), Place::here());
    require!(refused == Err(RawError::OfDevice), "it was read: {refused:?}");
    said("missing sync on", rig, "raw", &[made, at])?;
    stream.sync_single_for_cpu(back, 16, Access::Write)?;
    stream.cpu_read(back, &mut found)?;
    require!(&found == b"sixteen bytes ..", "what came back is {found:x?}");
    let (refused, at) = (stream.cpu_read(back, &mut [0; 17]), Place::here());
    require!(refused.is_err(), "it was read beyond its end");
    said("wrong size on", rig, "raw", &[made, at])?;

    let (refused, at) = (stream.unmap_single(back, 15, Access::Write), Place::here());
    require!(refused.is_err(), "it was unmapped as less");
    said("wrong size on", rig, "raw", &[made, at])?;
    let (refused, at) = (stream.unmap_single(back, 16, Access::Read), Place::here());
    require!(refused.is_err(), "it was unmapped as what the device may read");
    said("wrong direction on", rig, "raw", &[made, at])?;
    let (done, first) = (stream.unmap_single(back, 16, Access::Write), Place::here());
    done?;
    let (refused, again) = (stream.unmap_single(back, 16, Access::Write), Place::here());
    require!(refused == Err(RawError::NotMapped), "it was unmapped twice: {refused:?}");
    said("double unmap on", rig, "raw", &[made, first, again])?;
    let (refused, at) = (stream.cpu_read(back, &mut found), Place::here());
    require!(refused == Err(RawError::NotMapped), "it was read: {refused:?}");
    said("use after unmap on", rig, "raw", &[made, first, at])?;
    stream.unmap_single(there, 16, Access::Read)?;
    rig.expect_no_fault()
}

/// The device goes on with memory of a strict stream's after the unmap.
fn after_unmap(rig: &Rig, device: &Device) -> Outcome {
    let stream = device.stream::<FromDevice>("rx").strict();
    let buffer = stream.buffer(4096)?;
    let (mapped, made) = (buffer.map()?, Place::here());
    let address = mapped.iova().get();
    let (_buffer, unmapped) = (mapped.unmap()?, Place::here());
    rig.transfer(Direction::FromDevice, address, 16)?;
    rig.expect_fault(address, Tried::Write)?;
    let faults = device.events()?.faults().count();
    require!(faults == 1, "the driver is told of {faults} faults");
    said("fault explained", rig, "rx", &[made, unmapped])
}
