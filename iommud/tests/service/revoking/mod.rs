//! Handles that are revoked (R2, R3, R4).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `copies` | copies of handles whose originals are closed |
//! | `meanwhile` | what else happens at the time |
//! | `random` | random trees of handles, and what each has and reaches |
//! | `reach` | what devices reach afterwards, in whichever domain |
//! | `use_after` | what a revoked handle answers, and what becomes of requests that are pending on it |
//! | `who` | who may revoke what |

mod copies;
mod meanwhile;
mod random;
mod reach;
mod use_after;
mod who;

use libdma::protocol::Rights;
use libdma::protocol::call::{BatchHeader, MapEntry, Opcode, access_code};
use libdma::protocol::handle::{HandleInfo, Revoke, Revoked};
use libdma::{Access, Device, Error, Handle};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::rig::Rig;
use crate::tickets::greeted;

const PAGE: u64 = 4096;

/// The number of a handle.
pub(crate) fn number(handle: &Handle) -> u64 {
    handle.call::<HandleInfo>(Opcode::HandleInfo, &[0u8; 0]).unwrap().handle.get()
}

/// Ends a handle by its number, or everything derived from `by` for zero; how many ended.
pub(crate) fn revoke(by: &Handle, number: u64) -> Result<u64, Error> {
    let request = Revoke { handle: U64::new(number), reserved: U64::ZERO };
    by.call::<Revoked>(Opcode::Revoke, &request).map(|answer| answer.handles.get())
}

/// The request that maps the first page of a buffer by its number.
fn one_page(buffer: u64) -> Vec<u8> {
    let header = BatchHeader { count: U32::new(1), ..BatchHeader::new_zeroed() };
    let entry = MapEntry {
        buffer: U64::new(buffer),
        bytes: U64::new(PAGE),
        limit: U64::new(u64::MAX),
        access: U32::new(access_code(Access::ReadWrite)),
        ..MapEntry::new_zeroed()
    };
    [header.as_bytes(), entry.as_bytes()].concat()
}

/// Makes it.
pub(crate) fn map(by: &Handle, buffer: u64) -> Result<u64, Error> {
    let mut payload = one_page(buffer);
    by.call_bytes(Opcode::Map, &mut payload)?;
    let (header, rest) = BatchHeader::read_from_prefix(&payload).unwrap();
    match header.errno.get() {
        0 => Ok(MapEntry::read_from_prefix(rest).unwrap().0.iova.get()),
        errno => Err(Error::from_errno(errno as u16)),
    }
}

/// A device by a handle that was derived.
pub(crate) fn derived(device: &Device, rights: Rights) -> Device {
    Device::from_handle(device.derive(rights).unwrap()).unwrap()
}

/// Another handle to a device with these rights.
fn copy(device: &Device, rights: Rights) -> Handle {
    greeted(device.derive(rights).unwrap())
}

fn reads(rig: &Rig, iova: u64) -> bool {
    rig.device_reads(iova, 8).is_ok()
}
