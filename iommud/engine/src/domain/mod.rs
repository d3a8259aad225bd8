//! I/O address spaces.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`domain`] | [`Domain`]: an address space, what is mapped in it, and which units know it |
//! | [`table`] | its page table, in whichever layout its units walk |
//! | [`mapping`] | what lies at an address, and whose it is |

#[expect(clippy::module_inception, reason = "the module is about domains, and so is the type")]
pub mod domain;
pub mod mapping;
pub mod table;

pub use self::domain::{Domain, DomainKey};
pub use self::mapping::{Mapping, Owner};
pub use self::table::DomainTable;
