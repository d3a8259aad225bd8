//! What carries clients' requests to the service, one for each system.
//!
//! | module | where | what it is |
//! | --- | --- | --- |
//! | [`scheme`] | Redox | a handle is a descriptor of the scheme; what of it runs anywhere is compiled everywhere |
//! | [`socket`] | Linux | a handle is a connected `SOCK_SEQPACKET` socket |

pub mod scheme;
#[cfg(target_os = "linux")]
pub mod socket;
