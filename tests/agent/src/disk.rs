//! The disk that the rig gives a machine, with a sector that is known.

/// How long a sector is.
pub const SECTOR_BYTES: usize = 512;

/// Which sector it is.
pub const SECTOR: u64 = 7;

/// How it begins. All else on the disk is zero.
pub const WORDS: &[u8] = b"iommud: what is in this sector is known";

/// Where a driver under test writes, if it does: more sectors than one request moves.
pub const WRITTEN: u64 = 100;

/// What it writes there.
pub fn written() -> Vec<u8> {
    const SECTORS: usize = 200;
    (0..SECTORS * SECTOR_BYTES).map(|index| (index / SECTOR_BYTES * 5 + index * 3) as u8).collect()
}
