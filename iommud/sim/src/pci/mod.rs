//! PCI configuration space: what software reads of it, and what it changes.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`function`] | [`Function`]: one function's registers |
//! | [`capability`] | the capabilities that functions have |

pub mod capability;
pub mod function;

pub use capability::{ExpressKind, IommuBlock, acs};
pub use function::{BridgeKind, Function};
