//! The driver against stand-ins: a register model of the device, and an iommud that is a few maps.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `stand_in` | the stand-ins |
//! | `device` | the device alone |
//! | `simulated` | registers through calls |
//! | `buffers` | every kind of buffer |
//! | `misuse` | mistakes with DMA memory |
//! | `jobs` | what the program does, where the IOMMU is as it should be |
//! | `rogue` | misbehaviour, blocked and not blocked |
//! | `denied` | what is told of blocked accesses |

#[cfg(target_os = "linux")]
mod buffers;
mod denied;
mod device;
mod jobs;
#[cfg(target_os = "linux")]
mod misuse;
mod rogue;
mod simulated;
mod stand_in;
