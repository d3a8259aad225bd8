//! A function in sysfs.

use core::ptr::{NonNull, null_mut};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dma_types::PciAddress;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::error::Error;
use crate::{BARS, WORDS};

/// Where Linux shows the PCI functions, each a folder named by its address.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// Where the command register is in configuration space (PCI 3.0, 6.2.2), and some of its bits: the function answers at
/// its memory BARs, may make requests of its own, and raises no interrupt by a line.
const COMMAND: u64 = 0x04;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const NO_INTERRUPT: u16 = 1 << 10;

/// A PCI function, which no kernel driver has.
#[derive(Debug)]
pub struct Function {
    address: PciAddress,
    folder: PathBuf,
}

impl Function {
    /// The function at this address; or else the first that is one of these, by the first word of its configuration
    /// space (vendor and, above it, device), if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn find(
        wanted: Option<PciAddress>,
        is_one: impl Fn(u32) -> bool,
    ) -> Result<Option<Self>, Error> {
        let address = match wanted {
            Some(address) => Some(address),
            None => first(is_one).map_err(Error::system(FUNCTIONS))?,
        };
        let folder = |address: PciAddress| Path::new(FUNCTIONS).join(address.to_string());
        Ok(address.map(|address| Self { address, folder: folder(address) }))
    }

    /// Which function it is.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The first word of its configuration space: the vendor and, above it, the device.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn identity(&mut self) -> Result<u32, Error> {
        identity(&self.folder).map_err(Error::system(self.folder.display().to_string()))
    }

    /// Nothing but its address tells the children of this process which function it is, and anybody finds it by that.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn let_inherit(&self) -> Result<Option<(&'static str, String)>, Error> {
        Ok(None)
    }

    /// Lets the function answer at its registers, and keeps it from interrupting by a line. Requests of its own it still
    /// cannot make.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn let_answer(&mut self) -> Result<(), Error> {
        fs::write(self.folder.join("enable"), "1").map_err(self.failed("enable"))?;
        self.command(MEMORY_SPACE | NO_INTERRUPT)
    }

    /// Lets it make requests.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn let_master(&mut self) -> Result<(), Error> {
        self.command(BUS_MASTER)
    }

    /// Its configuration space as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn words(&mut self) -> Result<[u32; WORDS], Error> {
        let mut words = [0; WORDS];
        let config = self.open("config").map_err(self.failed("config"))?;
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            config.read_exact_at(&mut bytes, index as u64 * 4).map_err(self.failed("config"))?;
            *word = u32::from_le_bytes(bytes);
        }
        Ok(words)
    }

    /// How long each BAR is, if it is there.
    pub fn bar_bytes(&self) -> [Option<u64>; BARS] {
        let mut bytes = [None; BARS];
        for (number, bytes) in bytes.iter_mut().enumerate() {
            // The file is as long as the BAR, and there is none for what is no BAR.
            let file = fs::metadata(self.folder.join(resource(number as u32)));
            *bytes = file.ok().map(|file| file.len());
        }
        bytes
    }

    /// Maps a BAR whole, uncached, until the process ends.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn map(&mut self, bar: u32) -> Result<NonNull<[u8]>, Error> {
        let file = resource(bar);
        let map = || {
            let resource = self.open(&file)?;
            // The file is as long as the BAR.
            let bytes = resource.metadata()?.len() as usize;
            // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
            let start = unsafe {
                let protection = ProtFlags::READ | ProtFlags::WRITE;
                mmap(null_mut(), bytes, protection, MapFlags::SHARED, &resource, 0)
            }?;
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok(NonNull::slice_from_raw_parts(start, bytes))
        };
        map().map_err(self.failed(&file))
    }

    /// Keeps the function until the process ends: on Linux nobody is kept from it anyway.
    pub fn keep(self) {}

    /// Turns bits of the command register on.
    fn command(&self, bits: u16) -> Result<(), Error> {
        let set = || {
            let config = self.open("config")?;
            let mut bytes = [0; 2];
            config.read_exact_at(&mut bytes, COMMAND)?;
            let command = u16::from_le_bytes(bytes) | bits;
            config.write_all_at(&command.to_le_bytes(), COMMAND)
        };
        set().map_err(self.failed("config"))
    }

    fn open(&self, file: &str) -> io::Result<File> {
        File::options().read(true).write(true).open(self.folder.join(file))
    }

    fn failed(&self, file: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::system(self.folder.join(file).display().to_string())
    }
}

/// The file of a BAR.
fn resource(bar: u32) -> String {
    format!("resource{bar}")
}

/// The first function by address that is one of these, if there is one.
fn first(is_one: impl Fn(u32) -> bool) -> io::Result<Option<PciAddress>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(FUNCTIONS)? {
        let entry = entry?;
        let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(address) = address
            && is_one(identity(&entry.path())?)
        {
            found.push(address);
        }
    }
    Ok(found.into_iter().min())
}

fn identity(folder: &Path) -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open(folder.join("config"))?.read_exact_at(&mut bytes, 0)?;
    Ok(u32::from_le_bytes(bytes))
}
