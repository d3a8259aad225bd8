//! The two regions that firmware may have closed to devices before there were tables (11.4.8).
//!
//! A blocked request is not reported as a fault, so the engine turns the regions off once its own
//! tables protect memory.

use bitfield_struct::bitfield;

use super::file::register;

/// PMEN_REG, the Protected Memory Enable register (11.4.8.1). Written back with one field changed.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ProtectedMemory {
    /// PRS: the regions are closed, bit 0. It follows `enable`; only then may that change again.
    #[bits(access = RO)]
    pub enabled: bool,
    #[bits(30)]
    __: u32,
    /// EPM: close the regions, bit 31.
    pub enable: bool,
}
register!(ProtectedMemory: u32, 0x064, Readable Writable);

/// PLMBASE_REG, the Protected Low-Memory Base register (11.4.8.2).
///
/// Its low bits, as many as the unit likes, are zero whatever is written.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ProtectedLowBase {
    /// PLMB: where the low region starts.
    #[bits(32)]
    pub start: u32,
}
register!(ProtectedLowBase: u32, 0x068, Readable Writable);

/// PLMLIMIT_REG, the Protected Low-Memory Limit register (11.4.8.3).
///
/// The unit takes its low bits, as many as those of the base, for ones. A limit below the base is no
/// region.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ProtectedLowLimit {
    /// PLML: where the low region ends.
    #[bits(32)]
    pub last: u32,
}
register!(ProtectedLowLimit: u32, 0x06c, Readable Writable);

/// PHMBASE_REG, the Protected High-Memory Base register (11.4.8.4). As [`ProtectedLowBase`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ProtectedHighBase {
    /// PHMB: where the high region starts.
    #[bits(64)]
    pub start: u64,
}
register!(ProtectedHighBase: u64, 0x070, Readable Writable);

/// PHMLIMIT_REG, the Protected High-Memory Limit register (11.4.8.5). As [`ProtectedLowLimit`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ProtectedHighLimit {
    /// PHML: where the high region ends.
    #[bits(64)]
    pub last: u64,
}
register!(ProtectedHighLimit: u64, 0x078, Readable Writable);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enable_and_status_are_the_two_ends_of_the_register() {
        let on = ProtectedMemory::from_bits(0x8000_0001);
        assert!(on.enable() && on.enabled());
        assert_eq!(on.with_enable(false).into_bits(), 0x0000_0001);
        assert_eq!(
            ProtectedMemory::from_bits(0x5555_5554).with_enable(true).into_bits(),
            0xd555_5554
        );
    }
}
