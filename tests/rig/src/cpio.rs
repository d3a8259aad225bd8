//! An archive in the `newc` format of cpio, which Linux unpacks as its first root file system
//! (format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// What a name in the archive is, as the file type bits of a Unix mode.
#[derive(Clone, Copy)]
enum Kind {
    Directory = 0o040_000,
    File = 0o100_000,
    Symlink = 0o120_000,
    CharDevice = 0o020_000,
}

/// An archive in the making. Parents come before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Paths have no leading slash.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, Kind::Directory, 0o755, (0, 0), &[]);
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, Kind::File, 0o755, (0, 0), contents);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, Kind::Symlink, 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device with its major and minor number.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, Kind::CharDevice, 0o600, (major, minor), &[]);
    }

    /// The archive's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", Kind::File, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, kind: Kind, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        // Programs stay far below the format's 4 GiB; a larger one would be cut to nothing, not short.
        let size = u32::try_from(contents.len()).unwrap_or(0);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(0);
        let fields = [
            self.entries,       // inode
            kind as u32 | mode, // mode
            0,                  // uid
            0,                  // gid
            1,                  // links
            0,                  // modification time
            size,
            0, // major and minor of the device it is on
            0,
            device.0, // major and minor of the device it is
            device.1,
            name_size,
            0, // checksum, unused in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_bytes_that_cpio_writes() {
        let mut archive = Archive::new();
        archive.program("init", b"hi");
        let bytes = archive.finish();
        let expected = "070701\
            00000001000081ED000000000000000000000001000000000000000200000000000000000000000000000000\
            0000000500000000init\0\0hi\0\0";
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
        assert!(bytes[expected.len()..].starts_with(b"070701"));
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0") && bytes.len().is_multiple_of(4));
    }

    #[test]
    fn a_device_node_carries_its_numbers() {
        let mut archive = Archive::new();
        archive.char_device("dev/console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
    }
}
