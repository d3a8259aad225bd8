//! The policy file: what the administrator decides, in RON.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`file`](mod@file) | [`load`], [`load_default`]: from a path to a policy |
//! | [`text`] | [`parse`](text::parse): from text to a policy |
//! | `words` | what can be said |
//! | `value` | the values that are more than a word |
//! | [`warnings()`] | what of a policy takes away from confinement, or would |
//! | [`absent_units`], [`idle_limits`] | what of a policy comes to nothing |
//! | [`error`] | [`PolicyError`]: why there is no policy, with line and column |
//!
//! What the words mean is in the example, `iommud.ron` beside this crate's `Cargo.toml`, which says what holds
//! without any file; what comes of them is [`iommu_engine::policy`].

pub mod error;
pub mod file;
pub mod text;
mod value;
mod warnings;
mod words;

pub use error::PolicyError;
pub use file::{load, load_default};
pub use warnings::{absent_units, idle_limits, warnings};
