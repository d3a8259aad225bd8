//! The parsers of firmware's tables, on tables of real machines and on hostile ones.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `dmar`, `ivrs` | every table of a real machine is understood, or refused with a reason |
//! | `dmar_fields`, `ivrs_fields` | every value read from those is the one that `iasl -d` prints |
//! | `dmar_inputs`, `ivrs_inputs` | whatever a table holds, what is read from it makes sense |
//! | `time` | and is read in time |
//! | `plan` | and there is a plan for it |
//! | `corpus` | where the tables are |
//! | `iasl` | how they are disassembled |
//! | `random` | where hostile tables come from |
//!
//! The tables are not in the repository. Where they are absent, or `iasl` (of Debian's acpica-tools) is,
//! `build.rs` sees to it that the tests that need them count as ignored.
//!
//! How many hostile tables of each kind are tried, and how a failure is had again, is in the crate `fuzz`.

mod corpus;
mod dmar;
mod dmar_fields;
mod dmar_inputs;
mod iasl;
mod ivrs;
mod ivrs_fields;
mod ivrs_inputs;
mod plan;
mod random;
mod time;
