//! PCI configuration space: what software reads of it, and what it changes.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`function`] | [`Function`]: one function's registers |

pub mod function;

pub use function::Function;
