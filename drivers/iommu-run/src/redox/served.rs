//! Which requests the driver's namespace serves.

use redox_scheme::CallRequest;
use redox_scheme::scheme::Op;
use syscall::data::Stat;
use syscall::flag::StdFsCallKind;
use syscall::schemev2::{Opcode, Sqe};

/// The request in full, or itself if it is none that is served.
pub(super) fn operation(call: CallRequest) -> Result<Op, CallRequest> {
    // SAFETY: `Request` is a transparent wrapper of exactly this.
    let raw = unsafe { &*core::ptr::from_ref(call.request()).cast::<Sqe>() };
    if is_served(raw) { call.op() } else { Err(call) }
}

/// Whether it is a kind of request that is served. redox-scheme takes others apart by assertions that a driver can
/// break; with this process the driver would lose its namespace, and hang for good in the request.
fn is_served(raw: &Sqe) -> bool {
    let [_, address, length, kind, ..] = raw.args;
    // The driver says where and how long it is.
    let has_room_for_stat =
        length == size_of::<Stat>() as u64 && address % align_of::<Stat>() as u64 == 0;
    match Opcode::try_from_raw(raw.opcode) {
        Some(Opcode::OpenAt | Opcode::UnlinkAt | Opcode::Dup | Opcode::Fcntl) => true,
        Some(Opcode::Fstat) => has_room_for_stat,
        Some(Opcode::StdFsCall) => {
            let kind = u8::try_from(kind).ok().and_then(StdFsCallKind::try_from_raw);
            has_room_for_stat && kind == Some(StdFsCallKind::Fstat)
        }
        _ => false,
    }
}
