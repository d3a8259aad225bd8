//! I/O address spaces.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`domain`] | [`Domain`]: an address space, what is mapped in it, and which units know it |
//! | [`table`] | its page table, in whichever layout its units walk |
//! | [`addresses`] | which of its addresses are taken, and where a new mapping goes |
//! | [`mapping`] | what lies at an address, and whose it is |

pub mod addresses;
#[expect(clippy::module_inception, reason = "the module is about domains, and so is the type")]
pub mod domain;
pub mod mapping;
pub mod table;

pub use self::addresses::{Addresses, Place};
pub use self::domain::{Domain, DomainKey};
pub use self::mapping::{Mapping, Owner};
pub use self::table::DomainTable;
