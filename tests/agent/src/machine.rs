//! Which IOMMU an agent found, told to the rig, which knows the machine that it gave to QEMU.

use std::fmt;

const OPENING: &str = "the IOMMU here: ";

/// The IOMMU that an agent found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Intel's.
    Vtd,
    /// AMD's.
    AmdVi,
    /// None.
    Nothing,
}

impl Found {
    const NAMES: [(Self, &str); 3] =
        [(Self::Vtd, "VT-d"), (Self::AmdVi, "AMD-Vi"), (Self::Nothing, "none")];

    /// The kind that iommud calls so.
    pub fn of_kind(kind: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == kind).map(|(found, _)| *found)
    }

    /// Reads the line that is written so.
    pub fn parse(line: &str) -> Option<Self> {
        Self::of_kind(line.split_once(OPENING)?.1.trim())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(found, _)| found == self).map_or("", |(_, name)| name);
        write!(f, "{OPENING}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for found in [Found::Vtd, Found::AmdVi, Found::Nothing] {
            assert_eq!(Found::parse(&format!("iommu-selftest: {found}\r")), Some(found));
        }
        assert_eq!(Found::parse("the IOMMU here: VT-e"), None);
        assert_eq!(Found::parse("unit 0 (VT-d at 0xfed90000): translating"), None);
    }
}
