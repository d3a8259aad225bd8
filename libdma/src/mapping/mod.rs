//! Batches of mappings: pieces of buffers, mapped and unmapped by one request.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `mapped` | [`MapRequest`]: what is to be mapped; [`Mapped`]: what was; [`Found`]: what is at an address |
//! | `requests` | requests for mappings, and for their end |
//! | `wire` | batches as they lie on the wire |

mod mapped;
mod requests;
pub(crate) mod wire;

pub use mapped::{Found, MapRequest, Mapped};
