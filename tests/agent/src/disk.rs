//! The disk that the rig gives a machine, with a sector that is known.

/// How long a sector is.
pub const SECTOR_BYTES: usize = 512;

/// Which sector it is.
pub const SECTOR: u64 = 7;

/// How it begins. All else on the disk is zero.
pub const WORDS: &[u8] = b"iommud: what is in this sector is known";
