//! Handles: what each is of, what it allows, what was derived from it, and how it ends.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`handle`] | handles: what each is of, and what it allows |
//! | [`tree`] | which handle was derived from which |
//! | `revoke` | handles that end with everything that was derived from them |
//! | [`bounds`] | what the mappings of a handle are within |
//! | `deriving` | new handles from old ones |
//! | [`tickets`] | what handles offer, for requests on other handles to name |

pub mod bounds;
pub(crate) mod deriving;
pub mod handle;
pub(crate) mod revoke;
pub mod tickets;
pub mod tree;
