//! Memory of every kind, had and given back in an order that looks like chance, while the device is at work: for who wants
//! to see what is left when the driver is killed in the middle of it.

use core::any::Any;
use core::convert::Infallible;
use std::io::Write;

use dma_types::{Access, Iova};
use libdma::{FromDevice, Pool, ToDevice};

use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;

/// How much each transfer moves.
const BYTES: usize = 1024;

/// How much it has at most.
const MOST: u64 = 12;

/// Memory, where the device sees it, and which way it may be used.
type Held = (Box<dyn Any>, Iova, Direction);

/// Goes on until the process is killed. Says `traffic` on `out` once the first transfer has been started.
///
/// # Errors
///
/// [`Error::Iommud`], [`Error::Device`].
pub fn run(driver: &mut Driver, seed: u64, out: &mut dyn Write) -> Result<Infallible, Error> {
    let mut chance = Chance(seed);
    let pool = driver.device().pool("edud blocks").bytes(BYTES)?;
    let mut held: Vec<Held> = Vec::new();
    let mut is_said = false;
    loop {
        if !driver.is_busy()? {
            let next = some(driver, &pool, &mut chance)?;
            driver.start_transfer(next.2, next.1, BYTES)?;
            // What was moved before this may go now, and this may not.
            held.push(next);
            if !is_said {
                writeln!(out, "traffic")?;
                out.flush()?;
                is_said = true;
            }
        }
        let moved = held.pop();
        if chance.below(MOST) < held.len() as u64 {
            drop(held.swap_remove(chance.below(held.len() as u64) as usize));
        } else {
            held.push(some(driver, &pool, &mut chance)?);
        }
        held.extend(moved);
    }
}

/// Some memory of some kind.
fn some(driver: &Driver, pool: &Pool<[u8]>, chance: &mut Chance) -> Result<Held, Error> {
    let [to, from] = [Direction::ToDevice, Direction::FromDevice];
    let device = driver.device();
    Ok(match chance.below(7) {
        0 => {
            let it = device.coherent("edud small").access(Access::Read).bytes(BYTES)?;
            let iova = it.iova();
            (Box::new(it), iova, to)
        }
        1 => {
            let it = device.coherent("edud alone").access(Access::Write).alone().bytes(BYTES)?;
            let iova = it.iova();
            (Box::new(it), iova, from)
        }
        2 => {
            let it = pool.alloc()?;
            let iova = it.iova();
            (Box::new(it), iova, from)
        }
        3 => {
            let stream = device.stream::<ToDevice>("edud out");
            let it = stream.copy_of(&[7; BYTES])?.map().map_err(libdma::Error::from)?;
            let iova = it.iova();
            (Box::new(it), iova, to)
        }
        4 => {
            let stream = device.stream::<FromDevice>("edud in").strict();
            let it = stream.buffer(BYTES)?.map().map_err(libdma::Error::from)?;
            let iova = it.iova();
            (Box::new(it), iova, from)
        }
        5 => {
            let stream = device.stream::<FromDevice>("edud in");
            let it = stream.buffer(BYTES)?.map().map_err(libdma::Error::from)?;
            let iova = it.iova();
            (Box::new(it), iova, from)
        }
        _ => {
            let it = device.allocate(4096, Some(Access::ReadWrite), "edud buffer")?;
            let iova = it.iova().ok_or(libdma::Error::NotMapped)?;
            (Box::new(it), iova, from)
        }
    })
}

/// Numbers that look like chance (SplitMix64).
struct Chance(u64);

impl Chance {
    /// One less than `end`, which is not zero.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}
