//! What kinds of remapping structure there are.

use core::fmt;

/// The kind of a remapping structure (8.2). The specification adds to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureKind {
    /// DRHD, 0: a remapping unit (8.3).
    Unit,
    /// RMRR, 1: a reserved memory region (8.4).
    ReservedMemory,
    /// ATSR, 2: root ports that pass address translation services (8.5). The engine never allows ATS.
    RootPortAts,
    /// RHSA, 3: the memory that a unit is near to (8.6).
    Affinity,
    /// ANDD, 4: the name of a device that ACPI enumerates (8.7).
    NamespaceDevice,
    /// SATC, 5: devices on the chip that cache translations (8.8).
    SocAts,
    /// SIDP, 6: what devices on the chip cannot do (8.9).
    SocProperties,
    /// One of a later revision.
    Unknown(u16),
}

impl From<u16> for StructureKind {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::Unit,
            1 => Self::ReservedMemory,
            2 => Self::RootPortAts,
            3 => Self::Affinity,
            4 => Self::NamespaceDevice,
            5 => Self::SocAts,
            6 => Self::SocProperties,
            code => Self::Unknown(code),
        }
    }
}

impl fmt::Display for StructureKind {
    /// The specification's four letters, or the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unit => "DRHD",
            Self::ReservedMemory => "RMRR",
            Self::RootPortAts => "ATSR",
            Self::Affinity => "RHSA",
            Self::NamespaceDevice => "ANDD",
            Self::SocAts => "SATC",
            Self::SocProperties => "SIDP",
            Self::Unknown(code) => return write!(f, "kind {code}"),
        })
    }
}
