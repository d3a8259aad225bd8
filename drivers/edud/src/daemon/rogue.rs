//! Misbehaving on purpose: transfers that an IOMMU must block.
//!
//! The device is not told that a transfer was blocked, and so the driver looks at what has moved. Where it
//! knows what is in the memory in question, that is proof. Where it does not, iommud's list of faults has the
//! last word, and the report says so.

use core::fmt;

use clap::ValueEnum;
use dma_types::{Access, Iova, PAGE_SIZE};
use libdma::MapRequest;
use libdma::{Buffer, Device};

use super::driver::Driver;
use super::error::Error;
use super::witness::{PROBE_BYTES, SECRET, Seen, Witness};

/// How to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Let the device read from an address it was never given: the highest page below its DMA mask, or
    /// --address. Checked: whether it got anything but zeroes
    Read,
    /// Let the device write to a buffer that has been unmapped. Checked: the memory, which edud still sees
    Write,
    /// Let a transfer run over the end of what is mapped of a buffer. Checked: the memory behind, which edud
    /// still sees
    PastTheEnd,
    /// Let the device write to a buffer that is mapped for reading. Checked: the memory
    ReadOnly,
    /// Let the device read from a buffer that is mapped for writing. Checked: whether it got what is there
    WriteOnly,
    /// Let the device read from a buffer that has been freed. Checked: whether it got anything but zeroes
    AfterFree,
    /// Give the device a buffer's address in edud, or --address, instead of its I/O address. Checked: whether
    /// it got anything but zeroes
    Physical,
}

/// What became of it.
#[derive(Debug)]
pub struct Verdict {
    /// How the device misbehaved.
    pub kind: Kind,
    /// The address it put on the bus.
    pub address: Iova,
    /// Whether it reached memory.
    pub went_through: bool,
    /// How the driver knows.
    pub because: &'static str,
    /// The memory that it was about, if there still is such. Until the driver has let go of it, iommud can tell what
    /// is mapped there.
    pub memory: Option<Buffer>,
}

impl fmt::Display for Verdict {
    /// `rogue read from 0x1000: blocked (…)`, with the kind before the verb where that says more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Read => "rogue read from ",
            Kind::Write => "rogue write to ",
            Kind::PastTheEnd => "rogue past-the-end write to ",
            Kind::ReadOnly => "rogue read-only write to ",
            Kind::WriteOnly => "rogue write-only read from ",
            Kind::AfterFree => "rogue after-free read from ",
            Kind::Physical => "rogue physical read from ",
        })?;
        let verdict = if self.went_through { "NOT BLOCKED" } else { "blocked" };
        write!(f, "{}: {verdict} ({})", self.address, self.because)
    }
}

/// Misbehaves, and finds out what became of it. `address` is for [`Kind::Read`] and [`Kind::Physical`].
///
/// # Errors
///
/// [`Error::NeedlessAddress`]; [`Error::Inert`] if the device does not even make the two transfers that it is
/// allowed, for then it would prove nothing; [`Error::Iommud`], [`Error::Device`].
pub fn run(driver: &mut Driver, kind: Kind, address: Option<u64>) -> Result<Verdict, Error> {
    if address.is_some() && !matches!(kind, Kind::Read | Kind::Physical) {
        return Err(Error::NeedlessAddress);
    }
    let device = driver.device().clone();
    let mut witness = Witness::new(driver)?;
    let bus_address = |address: u64| Iova::new(address & device.highest_address().get());
    match kind {
        Kind::Read => {
            let highest = device.highest_address().page();
            let target = address.map_or(highest, bus_address);
            Ok(unsure(&device, kind, target, witness.device_reads(target)?))
        }
        Kind::Write => {
            let buffer = device.allocate(PAGE_SIZE, None, "edud rogue")?;
            let mapped = map_first_page(&device, &buffer, Access::ReadWrite)?;
            // While it may: a unit that keeps the translation would let it write again.
            let before = wrote(&mut witness, kind, mapped.iova(), buffer, 0)?;
            let Verdict { went_through: true, memory: Some(buffer), .. } = before else {
                return Err(Error::Inert { iova: mapped.iova(), index: 0 });
            };
            device.unmap(&[mapped])?;
            wrote(&mut witness, kind, mapped.iova(), buffer, 0)
        }
        Kind::PastTheEnd => {
            let buffer = device.allocate(2 * PAGE_SIZE, None, "edud rogue")?;
            let mapped = map_first_page(&device, &buffer, Access::Write)?;
            let lead = PAGE_SIZE - PROBE_BYTES as u64 / 2;
            let start = mapped.iova().checked_add(lead).ok_or(libdma::Error::Overflow)?;
            wrote(&mut witness, kind, start, buffer, PAGE_SIZE as usize)
        }
        Kind::ReadOnly => {
            let (target, iova) = secret(&device, Access::Read)?;
            wrote(&mut witness, kind, iova, target, 0)
        }
        Kind::WriteOnly => {
            let (target, iova) = secret(&device, Access::Write)?;
            let seen = witness.device_reads(iova)?;
            let verdict = Verdict { memory: Some(target), ..unsure(&device, kind, iova, seen) };
            Ok(match seen {
                // What is there is known, so that this is no guess.
                Seen::Nothing => {
                    Verdict { because: "the device did not get what is there", ..verdict }
                }
                _ if device.is_confined() && device.write_implies_read() => Verdict {
                    because: "this IOMMU cannot map memory for writing alone: see iommuctl units",
                    ..verdict
                },
                _ => verdict,
            })
        }
        Kind::AfterFree => {
            let (target, iova) = secret(&device, Access::ReadWrite)?;
            // While it may: a unit that keeps the translation would let it read again.
            if witness.device_reads(iova)? != Seen::Secret {
                return Err(Error::Inert { iova, index: 0 });
            }
            drop(target);
            Ok(unsure(&device, kind, iova, witness.device_reads(iova)?))
        }
        Kind::Physical => {
            let (target, _) = secret(&device, Access::ReadWrite)?;
            let wrong = bus_address(address.unwrap_or(target.cpu_address().get()));
            Ok(unsure(&device, kind, wrong, witness.device_reads(wrong)?))
        }
    }
}

/// A buffer full of something the device must not get, and where the device sees it.
fn secret(device: &Device, access: Access) -> Result<(Buffer, Iova), Error> {
    let target = device.allocate(PAGE_SIZE, Some(access), "edud rogue")?;
    target.write(0, &[SECRET; PAGE_SIZE as usize])?;
    let iova = target.iova().ok_or(libdma::Error::BadValue)?;
    Ok((target, iova))
}

fn map_first_page(
    device: &Device,
    buffer: &Buffer,
    access: Access,
) -> Result<libdma::Mapped, Error> {
    let request = MapRequest { buffer, offset: 0, bytes: PAGE_SIZE, access };
    device.map(&[request])?.pop().ok_or(Error::Iommud(libdma::Error::ShortPayload))
}

/// Lets the device write at `iova`, and looks whether the page of `buffer` at `offset` has changed.
fn wrote(
    witness: &mut Witness<'_>,
    kind: Kind,
    iova: Iova,
    buffer: Buffer,
    offset: usize,
) -> Result<Verdict, Error> {
    let mut page = [SECRET; PAGE_SIZE as usize];
    buffer.write(offset, &page)?;
    witness.device_writes(iova)?;
    buffer.read(offset, &mut page)?;
    let went_through = page.iter().any(|byte| *byte != SECRET);
    let because = if went_through { "the memory has changed" } else { "the memory is as it was" };
    Ok(Verdict { kind, address: iova, went_through, because, memory: Some(buffer) })
}

/// The verdict where it is not known, or not for sure, what the device would have got.
fn unsure(device: &Device, kind: Kind, address: Iova, seen: Seen) -> Verdict {
    let (went_through, because) = match seen {
        Seen::Nothing if !device.is_confined() => (true, "there is no IOMMU that could"),
        Seen::Nothing => (false, "the device got nothing; for certainty see iommuctl faults"),
        Seen::Secret => (true, "the device got what is there"),
        Seen::Something => (true, "the device got something"),
    };
    Verdict { kind, address, went_through, because, memory: None }
}
