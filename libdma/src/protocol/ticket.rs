//! Tickets: how a request on one handle names what another handle grants.
//!
//! Who holds a handle with [`Rights::SHARE`](super::Rights::SHARE) makes a ticket of it by
//! [`Opcode::Offer`](super::call::Opcode::Offer): sixteen bytes that nobody can guess. A request on another
//! handle carries them. So the two need not be told apart by their descriptors, which a Redox scheme cannot: one
//! of its own descriptors that is sent to it tells it nothing.
//!
//! A ticket is good for one request that succeeds, carries no more than its handle may do (rule R3), and ends with
//! that handle, with the session that the handle is of, or when it is used.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The most tickets of one session that may be waiting to be used. More are
/// [`Error::QuotaExceeded`](super::Error::QuotaExceeded).
pub const MAX_TICKETS: usize = 32;

/// Asks for a ticket.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Offer {
    /// The most [`Rights`](super::Rights) that may be had by it, all of which the handle must have.
    pub rights: U32,
    /// The most that a device may do by it, as an [`access_code`](super::call::access_code). Zero where no access is
    /// given.
    ///
    /// Of a buffer: what devices that it is attached to may do. To let a device read, the handle must have
    /// [`Rights::READ`](super::Rights::READ), and to let one write, [`Rights::WRITE`](super::Rights::WRITE). It is no more
    /// than was offered, if the buffer was itself made by a ticket.
    ///
    /// Of a device's registers: what others may do with them, by the same rights. A handle
    /// [within bounds](super::derive::Restrict) offers none.
    pub access: U32,
    /// Of a device, where in the BAR the part starts that is offered; else zero.
    pub offset: U64,
    /// Of a device, how long that is; else zero.
    pub bytes: U64,
    /// Of a device, which of its BARs that is in; else zero.
    pub bar: U32,
    /// Zero.
    pub reserved: U32,
}

/// The answer to [`Offer`], which is longer.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ticket(pub [u8; 16]);

impl core::fmt::Debug for Ticket {
    /// Without the secret: it is an authority, and logs are read by others.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ticket(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        assert_eq!((size_of::<Offer>(), size_of::<Ticket>()), (32, 16));
        let bytes: [u8; 32] = core::array::from_fn(|offset| offset as u8);
        let offer = Offer::read_from_bytes(&bytes).unwrap();
        assert_eq!((offer.rights.get(), offer.access.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!((offer.offset.get() as u8, offer.bytes.get() as u8), (8, 16));
        assert_eq!((offer.bar.get() as u8, offer.reserved.get() as u8), (24, 28));
    }

    #[test]
    fn a_ticket_is_not_printed() {
        assert_eq!(alloc::format!("{:?}", Ticket([7; 16])), "Ticket(..)");
    }
}
