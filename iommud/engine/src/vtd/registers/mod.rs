//! The registers of a VT-d unit (chapter 11), each a type with named fields.
//!
//! | module | registers |
//! | --- | --- |
//! | [`file`](self::RegisterFile) | where they are, and access to them in the right width |
//! | `capability` | [`Version`], [`Capability`], [`ExtendedCapability`] |
//! | `global` | [`GlobalCommand`], [`GlobalStatus`], [`RootTableAddress`] |
//! | `invalidation` | [`ContextCommand`], [`IotlbInvalidate`], [`InvalidateAddress`] |
//! | `queue` | [`QueueHead`], [`QueueTail`], [`QueueAddress`] and completion |
//! | `fault` | [`FaultStatus`] and the fault event |
//! | `protected` | [`ProtectedMemory`] and the limits of the two regions |

mod capability;
#[cfg(test)]
pub(in crate::vtd) mod fake;
mod fault;
mod file;
mod global;
mod invalidation;
mod protected;
mod queue;

pub use capability::{Capability, Drain, ExtendedCapability, Version};
pub use fault::{
    FaultEventAddress, FaultEventControl, FaultEventData, FaultEventUpperAddress, FaultStatus,
};
pub use file::{FIXED_REGISTERS_END, RegisterFile};
pub use global::{GlobalCommand, GlobalStatus, RootTableAddress, TranslationMode};
pub use invalidation::{ContextCommand, Granularity, InvalidateAddress, IotlbInvalidate};
pub use protected::{
    ProtectedHighBase, ProtectedHighLimit, ProtectedLowBase, ProtectedLowLimit, ProtectedMemory,
};
pub use queue::{
    InvalidationCompletion, InvalidationEventControl, QueueAddress, QueueHead, QueueTail,
};
