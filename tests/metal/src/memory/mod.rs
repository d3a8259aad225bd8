//! The guest's memory: what lies where, and what the CPU sees.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`cache`] | how the CPU caches a page |
//! | [`layout`] | the fixed places |
//! | [`physical`] | memory by physical address |
//! | [`pages`] | which pages of a range are taken |
//! | [`spare`] | memory behind those places |
//! | [`paging`] | the window in which scattered pages look contiguous |

pub mod cache;
pub mod layout;
pub mod pages;
pub mod paging;
pub mod physical;
pub mod spare;
