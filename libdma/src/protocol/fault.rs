//! The blocked accesses of a device, as [`Opcode::Faults`](super::call::Opcode::Faults) tells them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Error;

/// Before the records of [`Opcode::Faults`](super::call::Opcode::Faults), and before them again in the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FaultsHeader {
    /// In the request, for how many records there is room behind it, 1 to [`MAX_BATCH`](super::MAX_BATCH). In the
    /// answer, how many there are.
    pub count: U32,
    /// In the request zero. In the answer, how many records are left to be read.
    pub left: U32,
    /// In the request zero. In the answer, how many blocked accesses were dropped since the last reading,
    /// because the session had too many unread.
    pub dropped: U64,
}

/// One blocked access, or several in a row that are the same.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FaultRecord {
    /// The I/O address, or no more of it than its page where the unit does not record the rest.
    pub address: U64,
    /// When it was first read from the unit: nanoseconds since iommud's start.
    pub nanoseconds: U64,
    /// How many times in a row.
    pub times: U64,
    /// The PCI source-id that the request carried. A bridge or another function may have put its own there.
    pub source: U16,
    /// A [`Tried`].
    pub tried: U16,
    /// A [`Reason`].
    pub reason: U32,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident: $number:ident { $($(#[$what:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($number)]
        pub enum $name {
            $($(#[$what])* $variant = $code,)*
        }

        impl TryFrom<$number> for $name {
            type Error = Error;

            /// [`Error::BadValue`] for a number that stands for nothing.
            fn try_from(number: $number) -> Result<Self, Error> {
                match number {
                    $($code => Ok(Self::$variant),)*
                    _ => Err(Error::BadValue),
                }
            }
        }
    };
}

codes! {
    /// What a blocked request was for: [`FaultRecord::tried`].
    Tried: u16 {
        /// To read memory.
        Read = 1,
        /// To write memory.
        Write = 2,
        /// To read or write memory: the unit does not tell which.
        Access = 3,
        /// To change memory at once: to read and write it.
        Atomic = 4,
        /// To have a page mapped that is not.
        Page = 5,
        /// To interrupt a processor.
        Interrupt = 6,
        /// To learn what an address is translated to.
        Translation = 7,
        /// Nothing: the unit reports on its own work for the device.
        Internal = 8,
    }
}

codes! {
    /// Why a request was blocked: [`FaultRecord::reason`].
    Reason: u32 {
        /// The device reached nothing at all at that time.
        NoDomain = 1,
        /// The page is not mapped, or not for reading.
        NotReadable = 2,
        /// The page is not mapped, or not for writing.
        NotWritable = 3,
        /// The address has more bits than the device's tables translate.
        BeyondWidth = 4,
        /// The device claimed to have translated the address itself.
        Translated = 5,
        /// The request, or the page it was translated to, lies where interrupts go.
        InterruptRange = 6,
        /// An interrupt was refused.
        Interrupt = 7,
        /// The request carried a process address space id, or came by a mode that is never turned on.
        Mode = 8,
        /// The unit could not make sense of the device's entries in its tables.
        DeviceTable = 9,
        /// The unit could not make sense of a page table.
        PageTable = 10,
        /// The unit could not carry out a command.
        Command = 11,
        /// The unit gave a reason that iommud does not know.
        Unknown = 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_lie_on_the_wire_as_written_down() {
        assert_eq!((size_of::<FaultsHeader>(), size_of::<FaultRecord>()), (16, 32));
        let bytes: [u8; 32] = core::array::from_fn(|offset| offset as u8);
        let header = FaultsHeader::read_from_prefix(&bytes).unwrap().0;
        assert_eq!((header.count.get(), header.left.get()), (0x0302_0100, 0x0706_0504));
        assert_eq!(header.dropped.get(), 0x0f0e_0d0c_0b0a_0908);
        let record = FaultRecord::read_from_bytes(&bytes).unwrap();
        assert_eq!((record.address.get() as u8, record.nanoseconds.get() as u8), (0, 8));
        assert_eq!((record.times.get() as u8, record.source.get()), (16, 0x1918));
        assert_eq!((record.tried.get(), record.reason.get()), (0x1b1a, 0x1f1e_1d1c));
    }

    #[test]
    fn r5_numbers_that_stand_for_nothing_are_refused() {
        assert_eq!(Tried::try_from(2), Ok(Tried::Write));
        assert_eq!(Reason::try_from(12), Ok(Reason::Unknown));
        for number in [0, 9, u16::MAX] {
            assert_eq!(Tried::try_from(number), Err(Error::BadValue));
        }
        for number in [0, 13, u32::MAX] {
            assert_eq!(Reason::try_from(number), Err(Error::BadValue));
        }
    }
}
