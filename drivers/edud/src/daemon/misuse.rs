//! Mistakes with DMA memory, made on purpose: libdma's checker names each, if it is on.

use std::io::Write;
use std::mem;
use std::time::Duration;

use libdma::check::{self, Place};
use libdma::{Access, FromDevice, Handle, MapRequest};

use super::denied::PATIENCE;
use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;

/// What the checker calls a mistake, and the one who makes it: at these places.
type Mistake = (&'static str, fn(&Driver) -> Result<Vec<Place>, Error>);

const MISTAKES: [Mistake; 8] = [
    ("leak", leak),
    ("double free", double_free),
    ("double unmap", double_unmap),
    ("double unmap", unmap_twice_at_once),
    ("wrong size", wrong_size),
    ("wrong direction", wrong_direction),
    ("missing sync", missing_sync),
    ("use after unmap", use_after_unmap),
];

/// Makes each mistake once. One line on `out` for each: what it is, and the places in the code. What libdma's checker has to
/// say comes on standard error.
///
/// The last is that the device goes on with memory of a strict stream that was unmapped. It is known by the fault, which
/// `wait_readable` waits for; some IOMMUs record none (QEMU 7.2's AMD-Vi), and where there is none nothing is blocked.
///
/// # Errors
///
/// [`Error::Iommud`], [`Error::Device`], [`Error::Report`], and [`Error::Platform`] by what `wait_readable` fails with.
pub fn run(
    driver: &mut Driver,
    wait_readable: impl Fn(&Handle, Duration) -> Result<bool, driver_platform::Error>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    for (name, make) in MISTAKES {
        tell(out, name, &make(driver)?)?;
    }
    let places = device_goes_on(driver)?;
    if driver.device().is_confined() && wait_readable(driver.device().handle(), PATIENCE)? {
        driver.device().events()?;
        tell(out, "fault explained", &places)?;
    } else {
        writeln!(out, "the device went on after the unmap: no fault is recorded here")?;
    }
    Ok(())
}

fn tell(out: &mut dyn Write, name: &str, places: &[Place]) -> Result<(), Error> {
    let places: Vec<String> = places.iter().map(Place::to_string).collect();
    Ok(writeln!(out, "mistake: {name}: {}", places.join(", "))?)
}

fn leak(driver: &Driver) -> Result<Vec<Place>, Error> {
    let (ring, made) = (driver.device().coherent("edud leak").bytes(64), Place::here());
    mem::forget(ring?);
    check::leaks();
    Ok(vec![made])
}

fn double_free(driver: &Driver) -> Result<Vec<Place>, Error> {
    let pool = driver.device().pool("edud blocks").bytes(64)?;
    let (block, made) = (pool.alloc(), Place::here());
    let address = block?.into_address();
    let (_, first) = (pool.free(address), Place::here());
    let (_, again) = (pool.free(address), Place::here());
    Ok(vec![made, first, again])
}

fn double_unmap(driver: &Driver) -> Result<Vec<Place>, Error> {
    let mut stream = driver.device().raw_stream("edud raw");
    let (mapped, made) = (stream.map_zeroes(64, Access::Write), Place::here());
    let address = mapped.map_err(libdma::Error::from)?;
    let (_, first) = (stream.unmap_single(address, 64, Access::Write), Place::here());
    let (_, again) = (stream.unmap_single(address, 64, Access::Write), Place::here());
    Ok(vec![made, first, again])
}

fn unmap_twice_at_once(driver: &Driver) -> Result<Vec<Place>, Error> {
    let device = driver.device();
    let buffer = device.allocate(4096, None, "edud pieces")?;
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Read };
    let (mapped, made) = (device.map(&[piece]), Place::here());
    let mapped = mapped?;
    let twice = [mapped.as_slice(), mapped.as_slice()].concat();
    let (_, at) = (device.unmap(&twice), Place::here());
    device.unmap(&mapped)?;
    Ok(vec![made, at])
}

fn wrong_size(driver: &Driver) -> Result<Vec<Place>, Error> {
    let mut stream = driver.device().raw_stream("edud raw");
    let (mapped, made) = (stream.map_zeroes(64, Access::Write), Place::here());
    let address = mapped.map_err(libdma::Error::from)?;
    let (_, at) = (stream.unmap_single(address, 65, Access::Write), Place::here());
    stream.unmap_single(address, 64, Access::Write).map_err(libdma::Error::from)?;
    Ok(vec![made, at])
}

fn wrong_direction(driver: &Driver) -> Result<Vec<Place>, Error> {
    let mut stream = driver.device().raw_stream("edud raw");
    let (mapped, made) = (stream.map_zeroes(64, Access::Write), Place::here());
    let address = mapped.map_err(libdma::Error::from)?;
    let (_, at) = (stream.unmap_single(address, 64, Access::Read), Place::here());
    stream.unmap_single(address, 64, Access::Write).map_err(libdma::Error::from)?;
    Ok(vec![made, at])
}

fn missing_sync(driver: &Driver) -> Result<Vec<Place>, Error> {
    let mut stream = driver.device().raw_stream("edud raw");
    let (mapped, made) = (stream.map_zeroes(64, Access::Write), Place::here());
    let address = mapped.map_err(libdma::Error::from)?;
    let (_, at) = (stream.cpu_read(address, &mut [0; 64]), Place::here());
    stream.unmap_single(address, 64, Access::Write).map_err(libdma::Error::from)?;
    Ok(vec![made, at])
}

fn use_after_unmap(driver: &Driver) -> Result<Vec<Place>, Error> {
    let mut stream = driver.device().raw_stream("edud raw");
    let (mapped, made) = (stream.map_zeroes(64, Access::Write), Place::here());
    let address = mapped.map_err(libdma::Error::from)?;
    let (_, ended) = (stream.unmap_single(address, 64, Access::Write), Place::here());
    let (_, at) = (stream.cpu_read(address, &mut [0; 64]), Place::here());
    Ok(vec![made, ended, at])
}

/// The memory stays this process's, so that nothing else is written where nothing blocks the device.
fn device_goes_on(driver: &mut Driver) -> Result<Vec<Place>, Error> {
    let buffer = driver.device().stream::<FromDevice>("edud strict").strict().buffer(512)?;
    let (mapped, made) = (buffer.map(), Place::here());
    let mapped = mapped.map_err(libdma::Error::from)?;
    let address = mapped.iova();
    let (unmapped, ended) = (mapped.unmap(), Place::here());
    let _buffer = unmapped.map_err(libdma::Error::from)?;
    driver.transfer(Direction::FromDevice, address, 512)?;
    Ok(vec![made, ended])
}
