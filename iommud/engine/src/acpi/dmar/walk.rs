//! How the table's lists are walked: what their entries start with.

use super::error::DmarError;
use super::raw::{RawScope, RawStructure};
use crate::acpi::LengthFault;
use crate::acpi::walk::Head;

impl Head for RawStructure {
    type Error = DmarError;

    fn length(&self, _list: &[u8]) -> usize {
        self.length.get().into()
    }

    fn error(offset: usize, fault: LengthFault) -> DmarError {
        DmarError::Structure { offset, fault }
    }
}

impl Head for RawScope {
    type Error = DmarError;

    fn length(&self, _list: &[u8]) -> usize {
        self.length.into()
    }

    fn error(offset: usize, fault: LengthFault) -> DmarError {
        DmarError::Scope { offset, fault }
    }
}
