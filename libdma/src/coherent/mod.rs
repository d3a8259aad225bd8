//! Coherent memory: typed, seen by CPU and device at once. Linux's `dma_alloc_coherent` and `dma_alloc_attrs`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `builder` | [`Builder`]: what the memory is to be |
//! | `memory` | [`Coherent`]: the memory |
//! | `word` | [`Word`]: what is read and written in one piece |

mod builder;
mod memory;
mod word;

pub use builder::Builder;
pub use memory::Coherent;
pub use word::Word;
