//! Every kind of buffer: the device reads the data from there and brings it back.

use std::io::Write;

use dma_types::Iova;
use libdma::{Access, Attributes, FromDevice, ScatterList, ToDevice};

use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;

/// How much goes to the device and back: not whole words, nor pages.
const BYTES: usize = 1500;

/// What the data is to be brought there and back by, and the one who does it.
type Kind = (&'static str, fn(&mut Driver, &[u8]) -> Result<(), Error>);

const KINDS: [Kind; 8] = [
    ("small coherent memory", coherent),
    ("blocks of a pool", pool),
    ("streaming buffers", |driver, data| streaming(driver, data, false)),
    ("strict streaming buffers", |driver, data| streaming(driver, data, true)),
    ("slices of this process's", |driver, data| slices(driver, data, false)),
    ("strict slices of this process's", |driver, data| slices(driver, data, true)),
    ("a scatter list", scatter),
    ("a buffer in one piece", contiguous),
];

/// Sends data to the device and takes it back by each kind of buffer that libdma has. One line on `out` for each.
///
/// # Errors
///
/// [`Error::Corrupt`] for the first byte that differs; [`Error::Iommud`], [`Error::Device`].
pub fn run(driver: &mut Driver, out: &mut dyn Write) -> Result<(), Error> {
    for (number, (name, bring)) in KINDS.iter().enumerate() {
        let data: Vec<u8> = (0..BYTES).map(|index| byte(number, index)).collect();
        bring(driver, &data)?;
        writeln!(out, "{name}: {BYTES} bytes to the device and back: intact")?;
    }
    Ok(())
}

/// A byte of the data, other data for each kind.
fn byte(kind: usize, index: usize) -> u8 {
    (index.wrapping_mul(11) ^ (index >> 8) ^ kind.wrapping_mul(0x35)) as u8
}

/// The device reads what is at one address and writes it to another.
fn echo(driver: &mut Driver, from: Iova, to: Iova, bytes: usize) -> Result<(), Error> {
    driver.transfer(Direction::ToDevice, from, bytes)?;
    driver.transfer(Direction::FromDevice, to, bytes)
}

/// Checks what came back to an address.
fn check(iova: Iova, expected: &[u8], found: &[u8]) -> Result<(), Error> {
    match expected.iter().zip(found).position(|(expected, found)| expected != found) {
        None => Ok(()),
        Some(index) => Err(Error::Corrupt {
            index,
            iova,
            expected: expected[index].into(),
            found: found[index].into(),
        }),
    }
}

fn coherent(driver: &mut Driver, data: &[u8]) -> Result<(), Error> {
    let there =
        driver.device().coherent("edud small out").access(Access::Read).bytes(data.len())?;
    let back = driver.device().coherent("edud small in").access(Access::Write).bytes(data.len())?;
    there.copy_from(0, data)?;
    echo(driver, there.iova(), back.iova(), data.len())?;
    let mut found = vec![0; data.len()];
    back.copy_to(0, &mut found)?;
    check(back.iova(), data, &found)
}

/// The driver keeps the blocks' addresses alone while they are the device's.
fn pool(driver: &mut Driver, data: &[u8]) -> Result<(), Error> {
    let pool = driver.device().pool("edud blocks").align(64).boundary(4096).bytes(data.len())?;
    let block = pool.alloc()?;
    block.write(0, data)?;
    let (there, back) = (block.into_address(), pool.alloc_zeroed()?.into_address());
    echo(driver, there.iova(), back.iova(), data.len())?;
    let lost = |_| libdma::Error::NotMapped;
    pool.free(there).map_err(lost)?;
    let mut found = vec![0; data.len()];
    pool.take(back).map_err(lost)?.read(0, &mut found)?;
    check(back.iova(), data, &found)
}

fn streaming(driver: &mut Driver, data: &[u8], strict: bool) -> Result<(), Error> {
    let mut there = driver.device().stream::<ToDevice>("edud stream out");
    let mut back = driver.device().stream::<FromDevice>("edud stream in");
    if strict {
        (there, back) = (there.strict(), back.strict());
    }
    let there = there.copy_of(data)?.map().map_err(libdma::Error::from)?;
    let back = back.buffer(data.len())?.map().map_err(libdma::Error::from)?;
    let iova = back.iova();
    echo(driver, there.iova(), iova, data.len())?;
    let mut found = vec![0; data.len()];
    back.unmap().map_err(libdma::Error::from)?.read(0, &mut found)?;
    check(iova, data, &found)
}

fn slices(driver: &mut Driver, data: &[u8], strict: bool) -> Result<(), Error> {
    let mut there = driver.device().stream::<ToDevice>("edud slices out");
    let mut back = driver.device().stream::<FromDevice>("edud slices in");
    if strict {
        (there, back) = (there.strict(), back.strict());
    }
    let mut found = vec![0; data.len()];
    let there = there.map_slice(data)?;
    let back = back.map_slice_mut(&mut found)?;
    let iova = back.iova();
    echo(driver, there.iova(), iova, data.len())?;
    back.unmap().map_err(libdma::Error::from)?;
    check(iova, data, &found)
}

/// Two slices and a buffer are one transfer: a piece for each segment.
fn scatter(driver: &mut Driver, data: &[u8]) -> Result<(), Error> {
    let stream = driver.device().stream::<ToDevice>("edud list");
    let mut list = ScatterList::new(&stream);
    list.push_slice(&data[..100])?;
    list.push_slice(&data[100..700])?;
    list.push(stream.copy_of(&data[700..])?).map_err(libdma::Error::from)?;
    let list = list.map().map_err(libdma::Error::from)?;
    let back = driver.device().stream::<FromDevice>("edud list in").buffer(data.len())?;
    let back = back.map().map_err(libdma::Error::from)?;
    let iova = back.iova();
    let mut to = iova;
    for segment in list.segments() {
        echo(driver, segment.iova, to, segment.bytes as usize)?;
        to = to.checked_add(segment.bytes).ok_or(libdma::Error::Overflow)?;
    }
    drop(list.unmap().map_err(libdma::Error::from)?);
    let mut found = vec![0; data.len()];
    back.unmap().map_err(libdma::Error::from)?.read(0, &mut found)?;
    check(iova, data, &found)
}

/// A buffer with attributes that this process maps later than the device.
fn contiguous(driver: &mut Driver, data: &[u8]) -> Result<(), Error> {
    const LONG: u64 = 64 << 10;
    let attributes = Attributes::FORCE_CONTIGUOUS | Attributes::NO_CPU_MAPPING;
    let unseen = driver
        .device()
        .buffer("edud one piece")
        .access(Access::ReadWrite)
        .attributes(attributes)
        .allocate_unmapped(LONG)?;
    let buffer = unseen.map().map_err(libdma::Error::from)?;
    let start = buffer.iova().ok_or(libdma::Error::NotMapped)?;
    // Over a border between pages, and at the end.
    let (first, last) = (4096 - data.len() / 2, LONG as usize - data.len());
    let at = |offset: usize| start.checked_add(offset as u64).ok_or(libdma::Error::Overflow);
    buffer.write(first, data)?;
    echo(driver, at(first)?, at(last)?, data.len())?;
    let mut found = vec![0; data.len()];
    buffer.read(last, &mut found)?;
    check(at(last)?, data, &found)
}
