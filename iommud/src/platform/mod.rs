//! What lends the engine memory, registers and a clock, one for each kind of machine.

#[cfg(any(test, target_os = "redox"))]
pub mod redox;
#[cfg(target_os = "linux")]
pub mod sim;
