//! The names of devices that ACPI enumerates.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::entry::EntryFault;
use super::raw::RawNamed;

/// A device that is in the ACPI namespace and on no PCI bus, such as a UART of the chipset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDevice {
    /// Its `_HID`.
    pub hardware_id: AcpiId,
    /// Its `_CID`, if one is given.
    pub compatible_id: Option<AcpiId>,
    /// Its `_UID`: which of several with one `_HID` it is.
    pub uid: Uid,
}

impl NamedDevice {
    pub(super) fn parse(raw: &RawNamed, uid: &[u8]) -> Result<Self, EntryFault> {
        Ok(Self {
            hardware_id: AcpiId::new(raw.hardware_id).ok_or(EntryFault::NoName)?,
            compatible_id: AcpiId::new(raw.compatible_id),
            uid: Uid::parse(raw.uid_format, uid)?,
        })
    }
}

/// A `_HID` or `_CID`: up to eight characters, or the four bytes of a compressed EISA id. It prints as its text,
/// with `?` for bytes that are none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AcpiId([u8; 8]);

impl AcpiId {
    /// The id with these bytes, filled up with zeros, or `None` if there are none.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }
}

impl fmt::Display for AcpiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text(&self.0))
    }
}

impl fmt::Debug for AcpiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcpiId({self})")
    }
}

/// The `_UID` of a device, in one of the formats that the specification has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uid {
    /// 0: there is none.
    None,
    /// 1: a number.
    Number(u64),
    /// 2: a text, most often the device's path in the namespace.
    Text(Vec<u8>),
}

impl Uid {
    fn parse(format: u8, bytes: &[u8]) -> Result<Self, EntryFault> {
        match format {
            0 => Ok(Self::None),
            1 => {
                let mut number = [0; 8];
                let low = number.get_mut(..bytes.len()).filter(|low| !low.is_empty());
                low.ok_or(EntryFault::UidLength { bytes: bytes.len() })?.copy_from_slice(bytes);
                Ok(Self::Number(u64::from_le_bytes(number)))
            }
            2 => Ok(Self::Text(bytes.into())),
            format => Err(EntryFault::UidFormat { format }),
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("-"),
            Self::Number(number) => number.fmt(f),
            Self::Text(bytes) => f.pad(&text(bytes)),
        }
    }
}

/// Text of firmware's, up to its first zero.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let printable = |&byte: &u8| if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
    bytes.iter().map(printable).collect()
}
