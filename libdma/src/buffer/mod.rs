//! Buffers: memory of whole pages that this process and its device both see, as untyped bytes.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `builder` | [`Builder`]: what a buffer is to be |
//! | `memory` | [`Buffer`]: the memory |

mod builder;
mod memory;

pub use builder::Builder;
pub use memory::Buffer;
