//! How a client goes on after iommud was restarted.
//!
//! The descriptors of before are dead, and everything that they stood for is there still: devices are attached to their
//! domains, buffers mapped, and memory that a client has mapped stays where it is. For as long as the policy says
//! (`orphans`), each session of before waits for its client, who
//!
//! 1. opens [`path::resume`](super::path::resume) of the device, says [`Hello`](super::call::Hello) and then [`Resume`] with
//!    the session's secret: from then on it is a handle of the device as the one of before was;
//! 2. has by [`Reclaim`] a handle again to each buffer, part of a peer's BAR and domain that it still wants;
//! 3. says [`Opcode::EndResume`](super::call::Opcode::EndResume): what it has not reclaimed is given up.
//!
//! A session that nobody resumes by the deadline ends as if its client had died: the device is cut off, bus mastering is
//! turned off, and its memory is free when that is confirmed (rules R2 and R4). What a resumed session has not reclaimed by
//! then is given up, too.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Error, Secret};

/// Asks for a session of before, of the device that the handle was opened for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Resume {
    /// [`DeviceInfo::secret`](super::call::DeviceInfo::secret) of before.
    pub secret: Secret,
}

/// The answer to [`Resume`]. It is exactly as long.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Resumed {
    /// The session's generation from now on, by which its holders learn that iommud was restarted.
    pub generation: U64,
    /// Zero.
    pub reserved: U64,
}

/// Asks for a handle to something that a resumed session has from before.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Reclaim {
    /// [`Kind::Reclaim`](super::derive::Kind::Reclaim).
    pub kind: U32,
    /// The [`Rights`](super::Rights) it shall have: no more than the device's handle has, and than the first handle to it
    /// had.
    pub rights: U32,
    /// A [`Thing`].
    pub thing: U32,
    /// Zero.
    pub reserved: U32,
    /// Its number: [`BufferInfo::buffer`](super::call::BufferInfo::buffer) or
    /// [`DomainInfo::domain`](super::domain::DomainInfo::domain).
    pub number: U64,
}

/// What can be reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Thing {
    /// A buffer, or a part of another device's BAR: no two of them have the same number.
    Buffer = 1,
    /// A domain that the session has made.
    Domain = 2,
}

impl TryFrom<u32> for Thing {
    type Error = Error;

    /// [`Error::BadValue`] for a number that stands for nothing.
    fn try_from(number: u32) -> Result<Self, Error> {
        match number {
            1 => Ok(Self::Buffer),
            2 => Ok(Self::Domain),
            _ => Err(Error::BadValue),
        }
    }
}

/// Asks what is mapped of a buffer at an I/O address or behind it. The answer is a
/// [`Found`](super::domain::Found), of the first such mapping.
///
/// Who asked for something to be mapped and was not answered learns by it whether it was.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Next {
    /// The lowest address that the mapping may start at.
    pub iova: U64,
    /// The buffer's number.
    pub buffer: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        assert_eq!((size_of::<Resume>(), size_of::<Resumed>()), (16, 16));
        assert_eq!((size_of::<Reclaim>(), size_of::<Next>()), (24, 16));
        let bytes: [u8; 24] = core::array::from_fn(|offset| offset as u8);
        let resume = Resume::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((resume.secret.0[0], resume.secret.0[15]), (0, 15));
        let resumed = Resumed::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((resumed.generation.get() as u8, resumed.reserved.get() as u8), (0, 8));
        let reclaim = Reclaim::read_from_bytes(&bytes).unwrap();
        assert_eq!((reclaim.kind.get() as u8, reclaim.rights.get() as u8), (0, 4));
        assert_eq!((reclaim.thing.get() as u8, reclaim.reserved.get() as u8), (8, 12));
        assert_eq!(reclaim.number.get() as u8, 16);
        let next = Next::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((next.iova.get() as u8, next.buffer.get() as u8), (0, 8));
    }

    #[test]
    fn r5_numbers_that_stand_for_nothing_are_refused() {
        assert_eq!(Thing::try_from(1), Ok(Thing::Buffer));
        assert_eq!(Thing::try_from(2), Ok(Thing::Domain));
        for number in [0, 3, u32::MAX] {
            assert_eq!(Thing::try_from(number), Err(Error::BadValue));
        }
    }
}
