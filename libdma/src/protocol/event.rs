//! What happened to a device, as [`Opcode::Events`](super::call::Opcode::Events) tells it.
//!
//! Events are the whole device's: who reads them takes them, and they name what any holder has mapped. So they are told to
//! handles of the whole device alone. One that was derived [within bounds](super::derive::Restrict), and what came of it, is
//! refused with [`Error::NotPermitted`](super::Error::NotPermitted), and never becomes readable (rule R3).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Before the records of [`Opcode::Events`](super::call::Opcode::Events), and before them again in the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EventsHeader {
    /// In the request, for how many records there is room behind it, 1 to [`MAX_BATCH`](super::MAX_BATCH). In the
    /// answer, how many there are.
    pub count: U32,
    /// In the request zero. In the answer, how many records are left to be read.
    pub left: U32,
    /// In the request zero. In the answer, how many blocked accesses were dropped since the last reading, because the
    /// session had too many unread or its device made more than are told one by one.
    pub dropped: U64,
}

/// One event. What is not said of its kind is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EventRecord {
    /// An [`EventKind`].
    pub kind: U32,
    /// [`EventKind::Fault`]: the [`Place`] of the address in something that is or was mapped.
    pub place: U32,
    /// When iommud learned of it: nanoseconds since its start.
    pub nanoseconds: U64,
    /// [`EventKind::Fault`]: how many times in a row. [`EventKind::Quarantined`]: how many blocked accesses it is for.
    /// [`EventKind::Released`], [`EventKind::DeviceReset`], [`EventKind::Restarted`]: the generation of the session since.
    pub count: U64,
    /// [`EventKind::Fault`]: the I/O address, or no more of it than its page where the unit does not record the rest.
    pub address: U64,
    /// [`EventKind::Fault`]: the domain that the device was in when iommud learned of it, zero if in none.
    pub domain: U64,
    /// [`EventKind::Fault`], [`EventKind::Silenced`], [`EventKind::Quarantined`]: the PCI source-id that the requests
    /// carried. A bridge or another function may have put its own there.
    pub source: U16,
    /// [`EventKind::Fault`]: a [`Tried`](super::fault::Tried).
    pub tried: U16,
    /// [`EventKind::Fault`]: a [`Reason`](super::fault::Reason).
    pub reason: U32,
    /// With a [`Place`]: what the device may or might do there, as an [`access_code`](super::call::access_code).
    pub access: U32,
    /// Zero.
    pub reserved: U32,
    /// With a [`Place`]: the number of the buffer.
    pub buffer: U64,
    /// With a [`Place`]: which byte of the buffer the address is, or would be if it went on.
    pub offset: U64,
    /// Nanoseconds. With [`Place::Unmapped`]: how long before iommud learned of the access it was unmapped.
    /// [`EventKind::Silenced`]: for how long. [`EventKind::Quarantined`]: within which time they were.
    pub span: U64,
    /// With a [`Place`]: the domain that it is or was mapped in, which need not be the one that the device was in.
    pub within: U64,
    /// With a [`Place`]: what the buffer is called, padded with zeroes.
    pub label: [u8; 32],
}

codes! {
    /// What happened: [`EventRecord::kind`].
    EventKind: u32 {
        /// An access was blocked, or several in a row that are the same.
        Fault = 1,
        /// A device was denied so much that its unit was told to record nothing more of it for a while.
        Silenced = 2,
        /// The device was put in quarantine.
        Quarantined = 3,
        /// The quarantine of the device has ended.
        Released = 4,
        /// The device was reset.
        DeviceReset = 5,
        /// iommud was restarted, and the session resumed.
        Restarted = 6,
    }
}

codes! {
    /// How the address of a blocked access lies to something that is or was mapped: [`EventRecord::place`].
    Place: u32 {
        /// Nothing of this session's is or was mapped there, as far back as iommud remembers.
        Nothing = 0,
        /// Something is mapped there, and does not allow the access, or did not when it was made, or is in a
        /// domain that the device is not in.
        Mapped = 1,
        /// Something was mapped there.
        Unmapped = 2,
        /// Something is mapped up to the page before.
        Beyond = 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        assert_eq!((size_of::<EventsHeader>(), size_of::<EventRecord>()), (16, 120));
        let bytes: [u8; 120] = core::array::from_fn(|offset| offset as u8);
        let header = EventsHeader::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((header.count.get(), header.left.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!(header.dropped.get(), 0x0f0e_0d0c_0b0a_0908);
        let record = EventRecord::read_from_bytes(&bytes).unwrap();
        assert_eq!((record.kind.get() as u8, record.place.get() as u8), (0, 4));
        let words = [record.nanoseconds, record.count, record.address, record.domain];
        assert_eq!(words.map(|word| word.get() as u8), [8, 16, 24, 32]);
        assert_eq!((record.source.get(), record.tried.get()), (0x2928, 0x2b2a));
        assert_eq!((record.reason.get() as u8, record.access.get() as u8), (44, 48));
        let words = [record.buffer, record.offset, record.span, record.within];
        assert_eq!(words.map(|word| word.get() as u8), [56, 64, 72, 80]);
        assert_eq!((record.reserved.get() as u8, record.label[0], record.label[31]), (52, 88, 119));
    }

    #[test]
    fn r5_numbers_that_stand_for_nothing_are_refused() {
        assert_eq!(EventKind::try_from(1), Ok(EventKind::Fault));
        assert_eq!(Place::try_from(3), Ok(Place::Beyond));
        assert!(EventKind::try_from(0).is_err() && EventKind::try_from(u32::MAX).is_err());
        assert!(Place::try_from(4).is_err());
    }
}
