//! One IOMMU, whoever made it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`mod@unit`] | [`Unit`]: a VT-d or an AMD-Vi unit, behind the same methods |
//! | [`abilities`] | what tables a unit can walk, and which several can |
//! | [`change`] | what it is told about its tables |
//! | [`state`] | where it is in its life, and how that ends |
//! | [`summary`] | what it says of itself, for reports |
//! | [`fault_source`] | how it is learnt that it has recorded a fault |
//! | [`ring`] | a ring in memory by which it is asked to do something |
//! | [`tickets`] | what it has not confirmed, and for how long |
//! | [`domain_ids`] | the numbers by which it tags what it caches |

pub mod abilities;
pub mod change;
pub mod domain_ids;
pub mod fault_source;
pub mod ring;
pub mod state;
pub mod summary;
pub mod tickets;
#[expect(clippy::module_inception, reason = "the module is about units, and so is the type")]
pub mod unit;

pub use self::abilities::{Abilities, Depths, Mismatch, Walks};
pub use self::change::{Changed, MOST_AT_ONCE, Requests, Touched, Translation, merge};
pub use self::domain_ids::{DomainId, DomainIds};
pub use self::fault_source::FaultSource;
pub use self::ring::{Mark, Ring};
pub use self::state::{DEADLINE, UnitFailure, UnitState, Unusable};
pub use self::summary::{InvalidatesBy, Summary};
pub use self::tickets::Tickets;
pub use self::unit::Unit;
