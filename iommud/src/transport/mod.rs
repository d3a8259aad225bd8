//! What carries clients' requests to the service, one for each system.
//!
//! | module | where | what it is |
//! | --- | --- | --- |
//! | [`socket`] | Linux | a handle is a connected `SOCK_SEQPACKET` socket |

#[cfg(target_os = "linux")]
pub mod socket;
