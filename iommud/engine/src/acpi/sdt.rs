//! The header that every table starts with: signature, length, checksum.

use core::fmt;

use thiserror::Error;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::walk::Entries;

/// `DESCRIPTION_HEADER`, 36 bytes (ACPI Specification 6.5, section 5.2.6, table 5.4).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SdtHeader {
    /// Four letters that name the table.
    pub signature: [u8; 4],
    /// Bytes of the whole table, this header included.
    pub length: U32,
    /// The revision of the table's layout.
    pub revision: u8,
    /// What makes all bytes of the table add up to zero.
    pub checksum: u8,
    /// Who made the firmware.
    pub oem_id: [u8; 6],
    /// What its maker calls the table.
    pub oem_table_id: [u8; 8],
    /// The maker's revision of it.
    pub oem_revision: U32,
    /// The tool that built the table.
    pub creator_id: [u8; 4],
    /// The revision of that tool.
    pub creator_revision: U32,
}

/// A table of the right name and length.
#[derive(Clone, Copy)]
pub struct Sdt<'a> {
    /// What it starts with.
    pub header: &'a SdtHeader,
    /// The whole table, its header included, and nothing after it: offsets in errors count from here.
    pub bytes: &'a [u8],
    /// Whether its bytes add up to zero.
    ///
    /// A table with a wrong sum is still read. Linux too warns and goes on (ACPICA is built with
    /// `ACPI_CHECKSUM_ABORT` off): some firmware patches a table and forgets the sum, and refusing would
    /// leave such a machine with no confinement at all. Nothing is trusted because the sum is right,
    /// either.
    pub checksum_valid: bool,
}

impl<'a> Sdt<'a> {
    /// The table with this signature that `bytes` start with. Bytes after its length are left out.
    ///
    /// # Errors
    ///
    /// [`SdtError`], whenever the extent of the table is in doubt.
    pub fn parse(bytes: &'a [u8], signature: [u8; 4]) -> Result<Self, SdtError> {
        let (header, _) = SdtHeader::ref_from_prefix(bytes)
            .map_err(|_| SdtError::NoHeader { given: bytes.len() })?;
        if header.signature != signature {
            return Err(SdtError::Signature { found: Signature(header.signature) });
        }
        let length = header.length.get();
        let whole = usize::try_from(length).ok().filter(|length| *length >= size_of::<SdtHeader>());
        let Some(whole) = whole else {
            return Err(SdtError::TooShort { length, least: size_of::<SdtHeader>() });
        };
        let bytes = bytes.get(..whole).ok_or(SdtError::PastEnd { length, given: bytes.len() })?;
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        Ok(Self { header, bytes, checksum_valid: sum == 0 })
    }

    /// What every table of this name starts with, and the entries behind that.
    ///
    /// # Errors
    ///
    /// [`SdtError::TooShort`].
    pub(super) fn front<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
    ) -> Result<(&'a T, Entries<'a>), SdtError> {
        let (front, rest) = T::ref_from_prefix(self.bytes).map_err(|_| SdtError::TooShort {
            length: self.header.length.get(),
            least: size_of::<T>(),
        })?;
        Ok((front, Entries { offset: size_of::<T>(), rest }))
    }
}

/// The name of a table. It prints as its letters, with `?` for bytes that are none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0.iter().try_for_each(|&byte| {
            f.write_char(if byte.is_ascii_graphic() { char::from(byte) } else { '?' })
        })
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// Where the table starts and ends cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SdtError {
    /// There are fewer bytes than a header has.
    #[error("{given} bytes are too few for a table's header")]
    NoHeader {
        /// How many bytes there are.
        given: usize,
    },
    /// It is another table.
    #[error("its signature is {found}, which is another table's")]
    Signature {
        /// The signature it has.
        found: Signature,
    },
    /// It says that it is shorter than what every such table has.
    #[error("its length of {length} bytes is less than the {least} that such a table has at least")]
    TooShort {
        /// The length it gives.
        length: u32,
        /// The least it can be.
        least: usize,
    },
    /// It says that it is longer than what was given.
    #[error("its length of {length} bytes is more than the {given} that there are")]
    PastEnd {
        /// The length it gives.
        length: u32,
        /// How many bytes there are.
        given: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of nothing but a header, every byte written out.
    const TABLE: [u8; 36] = [
        b'D', b'M', b'A', b'R', 0x24, 0, 0, 0, 1, 0x06, // length 36, revision 1, checksum
        b'O', b'E', b'M', b'I', b'D', b' ', b'T', b'A', b'B', b'L', b'E', b' ', b' ', b' ', //
        0x04, 0x03, 0x02, 0x01, b'I', b'N', b'T', b'L', 0x08, 0x07, 0x06, 0x05,
    ];

    fn changed(at: usize, byte: u8) -> [u8; 36] {
        let mut table = TABLE;
        table[at] = byte;
        table
    }

    #[test]
    fn the_fields_are_where_acpi_has_them() {
        let table = Sdt::parse(&TABLE, *b"DMAR").ok().unwrap();
        let header = table.header;
        assert_eq!((header.length.get(), header.revision), (36, 1));
        assert_eq!((&header.oem_id, &header.oem_table_id), (b"OEMID ", b"TABLE   "));
        assert_eq!(
            (header.oem_revision.get(), header.creator_revision.get()),
            (0x0102_0304, 0x0506_0708)
        );
        assert_eq!(&header.creator_id, b"INTL");
        let sum: u32 = TABLE.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!((sum.to_le_bytes()[0], table.checksum_valid), (0, true));
    }

    #[test]
    fn what_follows_the_table_is_left_out() {
        let mut longer = [0xff; 40];
        longer[..36].copy_from_slice(&TABLE);
        let table = Sdt::parse(&longer, *b"DMAR").ok().unwrap();
        assert_eq!((table.bytes.len(), table.checksum_valid), (36, true));
    }

    #[test]
    fn a_wrong_checksum_is_reported_and_the_table_read() {
        let table = changed(10, b'o');
        assert!(!Sdt::parse(&table, *b"DMAR").ok().unwrap().checksum_valid);
    }

    #[test]
    fn r5_a_table_whose_extent_is_in_doubt_is_refused() {
        let error = |bytes: &[u8]| Sdt::parse(bytes, *b"DMAR").err();
        assert_eq!(error(&[]), Some(SdtError::NoHeader { given: 0 }));
        assert_eq!(error(&TABLE[..35]), Some(SdtError::NoHeader { given: 35 }));
        assert_eq!(
            error(&changed(0, 0)),
            Some(SdtError::Signature { found: Signature([0, b'M', b'A', b'R']) })
        );
        assert_eq!(error(&changed(4, 35)), Some(SdtError::TooShort { length: 35, least: 36 }));
        assert_eq!(error(&changed(4, 37)), Some(SdtError::PastEnd { length: 37, given: 36 }));
        assert_eq!(
            error(&changed(7, 0xff)),
            Some(SdtError::PastEnd { length: 0xff00_0024, given: 36 })
        );
    }
}
