//! How much memory iommud holds: on a machine that it simulates, as a process of whoever runs this. `tests/run bench` does.
//!
//! What tables take iommud's own account tells, what the process takes the system.

use std::fs;
use std::thread;
use std::time::Duration;

use agent::measure::amount;
use agent::reports::{Device as Found, Quota, rows};
use libdma::protocol::MAX_BATCH;
use libdma::transport::socket::Socket;
use libdma::{Access, Buffer, Device, Iova, MapRequest, Mapped};

use crate::bench::DONE;
use crate::failure::{Failure, Outcome, require};
use crate::programs::Program;

/// The word by which this program is told to look. The kind of unit follows.
pub(crate) const WORD: &str = "held";

/// How many mappings there are at once.
const MANY: usize = 1_000_000;

/// How long iommud is left alone before it is looked at for the last time.
const WHILE: Duration = Duration::from_secs(1);

const PAGE: u64 = 4096;

/// What may be left of tables when nothing is mapped: the root, and three on the way to one that is empty.
const LEFT: u64 = 4 * PAGE;

const GIB: u64 = 1 << 30;

/// How long mappings are, whose tables are looked at.
const SIZES: [(&str, u64); 3] = [("4k", PAGE), ("64k", 64 << 10), ("2m", 2 << 20)];

/// Where they are, above all that is mapped otherwise.
const PLACE: u64 = 64 * GIB;

/// How many there are, where each is in a GiB of its own.
const APART: u64 = 256;

/// `edu`, as `iommuctl devices` names it.
const EDU: &str = "1234:11e8";

/// Looks, and tells it on standard output.
pub(crate) fn run(unit: &str) -> Outcome {
    let mut iommud = Program::start("iommud", &["--sim", "--unit", unit])?;
    iommud.wait_line("iommud: ready")?;
    let tell = |state: &str| -> Outcome {
        println!("{}", amount(&format!("resident/{state}"), resident(iommud.id())?, 0));
        Ok(())
    };
    tell("idle")?;
    let (device, name) = open()?;
    // In one piece, so that large pages are used where it is mapped as a whole.
    let buffer = device.buffer("held").contiguous().allocate(2 << 20)?;
    tables(&device, &name, &buffer)?;
    tell("begun")?;
    let mut mapped = Vec::new();
    let pages = pieces(&buffer, PAGE);
    while mapped.len() < MANY {
        let count = pages.len().min(MANY - mapped.len());
        mapped.extend(device.map(&pages[..count])?);
    }
    tell("million")?;
    println!("{}", amount("tables/million", of_tables(&name)?, MANY as u64 * PAGE));
    for batch in mapped.chunks(MAX_BATCH) {
        device.unmap(batch)?;
    }
    // It tidies up when nobody has asked for anything for a while.
    thread::sleep(WHILE);
    tell("after")?;
    println!("{DONE}");
    Ok(())
}

/// A batch of mappings of so many bytes each.
fn pieces(buffer: &Buffer, bytes: u64) -> Vec<MapRequest<'_>> {
    let places = buffer.len() as u64 / bytes;
    let piece = |index| MapRequest {
        buffer,
        offset: index % places * bytes,
        bytes,
        access: Access::ReadWrite,
    };
    (0..MAX_BATCH as u64).map(piece).collect()
}

/// Tells what tables take for mappings one behind the other that fill a GiB, and for such that have each a GiB of its own.
fn tables(device: &Device, name: &str, buffer: &Buffer) -> Outcome {
    for (size, bytes) in SIZES {
        let batch = pieces(buffer, bytes);
        let length = bytes * batch.len() as u64;
        let dense = (0..GIB.div_ceil(length)).map(|index| (PLACE + index * length, &batch[..]));
        tell_tables(device, name, &format!("dense-{size}"), dense)?;
        let apart = (0..APART).map(|index| (PLACE + index * GIB, &batch[..1]));
        tell_tables(device, name, &format!("apart-{size}"), apart)?;
    }
    Ok(())
}

/// Maps these batches, tells what tables were needed for them besides the root, and unmaps them.
fn tell_tables<'a>(
    device: &Device,
    name: &str,
    kind: &str,
    batches: impl Iterator<Item = (u64, &'a [MapRequest<'a>])>,
) -> Outcome {
    let mut mapped = Vec::new();
    for (place, batch) in batches {
        mapped.extend(device.map_at(Iova::new(place), batch)?);
    }
    let bytes = mapped.iter().map(|it: &Mapped| it.bytes()).sum();
    println!("{}", amount(&format!("tables/{kind}"), of_tables(name)? - PAGE, bytes));
    for batch in mapped.chunks(MAX_BATCH) {
        device.unmap(batch)?;
    }
    let after = of_tables(name)?;
    require!(after <= LEFT, "{kind}: {after} bytes of tables are left, more than {LEFT}");
    Ok(())
}

/// Opens the simulated device; it, and its name.
fn open() -> Outcome<(Device, String)> {
    let found = rows::<Found>("devices")?.into_iter().find(|it| it.id == EDU);
    let name = found.ok_or(Failure("there is no edu device".into()))?.device;
    let address = name.parse().map_err(|_| Failure(format!("{name} is no PCI address")))?;
    Ok((Device::open(Socket::connect()?, address)?, name))
}

/// How many bytes of tables a device pays for.
fn of_tables(device: &str) -> Outcome<u64> {
    let holder = format!("device {device}");
    let all = rows::<Quota>("quotas")?;
    let row = all.iter().find(|it| it.holder == holder && it.resource == "page_table_bytes");
    Ok(row.ok_or(Failure(format!("there is no account of {device}'s tables")))?.held)
}

/// How many bytes of memory a process has, as Linux tells.
fn resident(process: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.map(|line| line.trim().trim_end_matches(" kB").trim());
    let kib: u64 = words.ok_or(Failure("it has no VmRSS".into()))?.parse()?;
    Ok(kib << 10)
}
