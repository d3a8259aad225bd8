//! Guards: what the compiler says of one that is overlooked, and what a person is shown of one.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `overlooked` | a guard that dies where it is made is warned of |
//! | `shown` | `{:?}` |
#![cfg(target_os = "linux")]

mod overlooked;
mod shown;
