//! A process in a Linux guest.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `function` | a function in sysfs |
//! | `handle` | handles, which are sockets |

mod function;
mod handle;

pub use function::Function;
pub use handle::{connect, let_inherit, wait_readable};

use crate::error::Error;

/// Nobody on Linux waits to be told.
///
/// # Errors
///
/// Never.
pub fn report_ready() -> Result<(), Error> {
    Ok(())
}
