//! What the machine is made of.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`plan`] | what to do with it, from its tables and configuration space alone |
//! | [`discover`](mod@discover) | the plan put into effect: units asked, devices in groups |
//! | [`unit_slot`] | a unit that the firmware's table names |
//! | [`device`] | a PCI function |
//! | [`group`] | devices that go in and out of domains together |
//! | [`reserved`] | memory that firmware reserves for devices |
//! | [`remark`] | what is odd, for a person to know |

pub mod device;
pub mod discover;
pub mod group;
pub mod plan;
pub mod remark;
pub mod reserved;
pub mod unit_slot;

pub use self::device::Device;
pub use self::discover::{Found, discover};
pub use self::group::{Blocked, Group, GroupId};
pub use self::remark::Remark;
pub use self::reserved::ReservedRange;
pub(crate) use self::reserved::merged;
pub use self::unit_slot::UnitSlot;
