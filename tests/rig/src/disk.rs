//! The disk that machines are given.

use std::path::Path;

use agent::disk::{SECTOR, SECTOR_BYTES, WORDS, WRITTEN, written};

/// How large it is.
const BYTES: usize = 1 << 20;

/// The disk with the sector that is known.
pub fn known() -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    put(&mut bytes, SECTOR, WORDS);
    bytes
}

/// The same with what a driver under test was to write.
pub fn known_and_written() -> Vec<u8> {
    let mut bytes = known();
    put(&mut bytes, WRITTEN, &written());
    bytes
}

fn put(disk: &mut [u8], sector: u64, data: &[u8]) {
    let start = sector as usize * SECTOR_BYTES;
    disk[start..start + data.len()].copy_from_slice(data);
}

/// A file's name as QEMU's options take it: in them a comma ends it, unless there are two.
pub fn file(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A file as a raw disk of QEMU's, what is written to which is forgotten.
pub fn drive(file: &Path, id: &str) -> String {
    format!("file={},format=raw,snapshot=on,if=none,id={id}", self::file(file))
}
