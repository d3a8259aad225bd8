//! All that is done, on Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `run` | [`run()`]: from the command line to the driver |
//! | `device` | opening the device at iommud |
//! | `namespace` | the driver's namespace, as the driver's process has it made |
//! | `broker` | the process that serves it |
//! | `served` | which requests it serves |
//! | `descriptors` | what a program that is run inherits |
//! | `exec` | running a program in this process's place |

mod broker;
mod descriptors;
mod device;
mod exec;
mod namespace;
mod run;
mod served;

pub use run::run;
