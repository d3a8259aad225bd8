//! How the table's lists are walked: what their entries start with.

use super::error::IvrsError;
use super::kind::EntryCode;
use super::raw::{RawBlock, RawEntry, RawNamed};
use crate::acpi::LengthFault;
use crate::acpi::walk::Head;

impl Head for RawBlock {
    type Error = IvrsError;

    fn length(&self, _list: &[u8]) -> usize {
        self.length.get().into()
    }

    fn error(offset: usize, fault: LengthFault) -> IvrsError {
        IvrsError::Block { offset, fault }
    }
}

impl Head for RawEntry {
    type Error = IvrsError;

    /// The two highest bits of the type tell the length, but for types F0h and above: F0h has a length of
    /// its own, and of the others none is defined, so that they end the list.
    fn length(&self, list: &[u8]) -> usize {
        const SHORTEST: usize = 4;
        match EntryCode::from(self.kind) {
            EntryCode::Named => {
                let uid = list.get(size_of::<RawNamed>() - 1).copied().unwrap_or(0);
                size_of::<RawNamed>() + usize::from(uid)
            }
            EntryCode::UnknownLength(_) => list.len(),
            _ => SHORTEST << (self.kind >> 6),
        }
    }

    fn error(offset: usize, fault: LengthFault) -> IvrsError {
        IvrsError::Entry { offset, fault }
    }
}
