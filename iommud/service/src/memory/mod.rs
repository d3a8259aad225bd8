//! Buffers and peers' BARs, and their mappings in domains.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`buffers`] | buffers: allocated, granted to clients' eyes, and given back |
//! | [`attach`] | buffers of memory that another handle offers |
//! | [`register`] | buffers of memory that clients supply |
//! | [`runs`] | memory that several buffers may be of |
//! | [`peer_bars`] | a part of one device's BAR in the address space of another |
//! | [`label`] | what reports call a buffer |
//! | [`mapped`] | where one buffer is mapped |
//! | [`mappings`] | buffers in domains: who asks, and what is where |
//! | `map`, `unmap` | batches of them |
//! | `strict` | mappings each of which is the only one of its memory |

pub mod attach;
pub mod buffers;
pub mod label;
mod map;
pub mod mapped;
pub mod mappings;
pub mod peer_bars;
pub mod register;
pub mod runs;
pub(crate) mod strict;
pub(crate) mod unmap;
