//! Groups of machines that are written out, and of random ones.

mod examples;
pub(crate) mod machine;
mod properties;
