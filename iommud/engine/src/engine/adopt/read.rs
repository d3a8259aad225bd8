//! What the ledger says.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use dma_types::PhysAddr;

use super::AdoptError;
use crate::ledger::{Ledger, Record, Slot};
use crate::platform::TableFrames;
use crate::records::{AttachmentRecord, DomainRecord, EpochRecord, ReserveRecord, UnitRecord};

/// What the engine wrote down.
pub(super) struct Written {
    pub(super) ledger: Ledger,
    /// The ledger's frames, the header first.
    pub(super) chain: Vec<PhysAddr>,
    pub(super) units: Vec<(Slot, UnitRecord)>,
    pub(super) domains: Vec<(Slot, DomainRecord)>,
    pub(super) attachments: Vec<(Slot, AttachmentRecord)>,
    pub(super) reserves: Vec<(Slot, ReserveRecord)>,
    pub(super) epoch: (Slot, EpochRecord),
}

impl Written {
    /// Reads it, and sees that it does not contradict itself.
    pub(super) fn read(frames: &impl TableFrames) -> Result<Self, AdoptError> {
        let (ledger, chain) = Ledger::found(frames)?;
        let units = all::<UnitRecord>(frames)?;
        let domains = all::<DomainRecord>(frames)?;
        let attachments = all::<AttachmentRecord>(frames)?;
        let reserves = all::<ReserveRecord>(frames)?;
        let epochs = all::<EpochRecord>(frames)?;
        let [epoch] = epochs.as_slice() else { return Err(AdoptError::Record) };
        once(units.iter().map(|(_, unit)| unit.base))?;
        once(domains.iter().map(|(_, domain)| domain.key))?;
        once(attachments.iter().map(|(_, attachment)| attachment.device))?;
        let epoch = *epoch;
        Ok(Self { ledger, chain, units, domains, attachments, reserves, epoch })
    }
}

/// Every record of a kind. One that makes no sense is not left out here.
fn all<R: Record>(frames: &impl TableFrames) -> Result<Vec<(Slot, R)>, AdoptError> {
    let records = Ledger::records::<R>(frames)?;
    match Ledger::count::<R>(frames)? == records.len() {
        true => Ok(records),
        false => Err(AdoptError::Record),
    }
}

/// Refuses what is there twice.
fn once<T: Ord>(keys: impl Iterator<Item = T>) -> Result<(), AdoptError> {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return Err(AdoptError::Record);
        }
    }
    Ok(())
}
