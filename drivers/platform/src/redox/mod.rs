//! A process on Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `function` | a function by its channel at pcid |
//! | `handle` | handles, which are descriptors of the `iommu` scheme |
//! | `ready` | telling that the driver is ready |
//! | `wait` | waiting for a handle, by an event queue |
//! | `inherited` | descriptors that a variable names |

mod function;
mod handle;
mod inherited;
mod ready;
mod wait;

pub use function::Function;
pub use handle::{connect, let_inherit};
pub use ready::report_ready;
pub use wait::wait_readable;
