//! Why the tables of a daemon that has died cannot be gone on with.

use dma_types::PhysAddr;
use thiserror::Error;

use crate::domain::DomainKey;
use crate::error::StartError;
use crate::ledger::LedgerError;
use crate::platform::NotInherited;

/// Why the tables of a daemon that has died cannot be gone on with. No table and no register has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdoptError {
    /// There are none.
    #[error("no iommud has left anything")]
    NothingInherited,
    /// The machine cannot be looked at.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The ledger is not as it must be.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record that must be there is not, is there twice, or says what cannot be.
    #[error("the ledger contradicts itself")]
    Record,
    /// The machine has no IOMMU: nothing is translated, and there are no tables.
    #[error("this machine has no IOMMU")]
    NoIommu,
    /// A unit cannot be used any more, or goes by other tables than those that were written down.
    #[error("the IOMMU at {0} does not translate by the tables that are written down")]
    Unit(PhysAddr),
    /// A unit was not used before.
    #[error("the IOMMU at {0} was not used before")]
    NewUnit(PhysAddr),
    /// What a unit looks devices up in is not as we write it.
    #[error("the device tables of the IOMMU at {0} are broken")]
    DeviceTable(PhysAddr),
    /// A domain's page table is not as we write it.
    #[error("the page table of domain {domain} is broken at {frame}", domain = .0.0, frame = .1)]
    PageTable(DomainKey, PhysAddr),
    /// A frame of the ledger is one of something else, too.
    #[error("the frame at {0} is in use twice")]
    FrameTwice(PhysAddr),
    /// The platform does not have what is written down.
    #[error("memory that was in use is not there any more")]
    Memory(#[from] NotInherited),
}
