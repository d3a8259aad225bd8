//! I/O address spaces.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`domains`] | all of them, by number |
//! | [`domain`] | [`Domain`]: an address space, and what is mapped in it |
//! | `at_hand` | mappings that come and go without a search |
//! | `chains` | what was mapped one behind the other |
//! | `identity` | what is mapped in it at its own addresses |
//! | `members` | which units know it |
//! | [`table`] | its page table, in whichever layout its units walk |
//! | [`addresses`] | which of its addresses are taken, and where a new mapping goes |
//! | [`mapping`] | what lies at an address, and whose it is |
//! | `mappings` | all of that, by address |

pub mod addresses;
mod at_hand;
mod chains;
#[expect(clippy::module_inception, reason = "the module is about domains, and so is the type")]
pub mod domain;
pub mod domains;
mod identity;
pub mod mapping;
mod mappings;
mod members;
pub mod table;

pub use self::addresses::{Addresses, Place};
pub use self::domain::{Domain, DomainKey};
pub use self::domains::Domains;
pub use self::mapping::{Mapping, Owner};
pub use self::table::DomainTable;
