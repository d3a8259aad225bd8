//! A process in a Linux guest.

use core::ptr::{NonNull, null_mut};
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dma_types::PciAddress;
use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::socket::Socket;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::is_disk;
use crate::error::Error;
use crate::space::{BARS, Bar, Space};

/// Where Linux shows the PCI functions, each a folder named by its address.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// Where the command register is in configuration space (PCI 3.0, 6.2.2), and some of its bits: the function answers at
/// its memory BARs, may make requests of its own, and raises no interrupt by a line.
const COMMAND: u64 = 0x04;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const NO_INTERRUPT: u16 = 1 << 10;

/// The transport to iommud, for opening things.
pub(crate) fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Socket::connect()?)
}

/// Takes over a handle that was passed to this process as a descriptor of this number.
pub(crate) fn adopt(number: &str) -> Result<Handle, Error> {
    let number: u16 = number.parse().map_err(|_| Error::NoPassedHandle)?;
    let number = RawFd::from(number);
    // SAFETY: the descriptor is borrowed for this call alone, which fails if it is not open.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)
        .map_err(|_| Error::NoPassedHandle)?;
    // SAFETY: it is open, and whoever set the variable made it over to this process. Nothing here opened
    // it, so nothing here closes it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(Handle::new(Socket::unconnected(), Socket::adopt(descriptor)))
}

/// Nobody on Linux waits to be told.
pub(crate) fn report_ready() -> Result<(), Error> {
    Ok(())
}

/// A PCI function that is a virtio disk, which no kernel driver has.
#[derive(Debug)]
pub(crate) struct Function {
    address: PciAddress,
    folder: PathBuf,
}

impl Function {
    /// The function at this address, or the first there is.
    pub(crate) fn find(wanted: Option<PciAddress>) -> Result<Self, Error> {
        let address = match wanted {
            Some(address) => address,
            None => first_disk().map_err(Error::system(FUNCTIONS))?.ok_or(Error::NoDevice)?,
        };
        let folder = Path::new(FUNCTIONS).join(address.to_string());
        match identity(&folder) {
            Ok(identity) if is_disk(identity) => Ok(Self { address, folder }),
            Ok(_) => Err(Error::NotADisk(address)),
            Err(error) => Err(Error::system(folder.display().to_string())(error)),
        }
    }

    /// Which function it is.
    pub(crate) fn address(&self) -> PciAddress {
        self.address
    }

    /// Lets the function answer at its registers, and keeps it from interrupting. Requests of its own it still cannot
    /// make.
    pub(crate) fn let_answer(&mut self) -> Result<(), Error> {
        fs::write(self.folder.join("enable"), "1").map_err(self.failed("enable"))?;
        self.command(MEMORY_SPACE | NO_INTERRUPT)
    }

    /// Lets it make requests.
    pub(crate) fn let_master(&mut self) -> Result<(), Error> {
        self.command(BUS_MASTER)
    }

    /// Its configuration space as it is now.
    pub(crate) fn space(&mut self) -> Result<Space, Error> {
        let mut words = [0; 64];
        let config = self.open("config").map_err(self.failed("config"))?;
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            config.read_exact_at(&mut bytes, index as u64 * 4).map_err(self.failed("config"))?;
            *word = u32::from_le_bytes(bytes);
        }
        let mut lengths = [None; BARS];
        for (number, length) in lengths.iter_mut().enumerate() {
            // The file is as long as the BAR, and there is none for what is no BAR.
            let file = fs::metadata(self.folder.join(format!("resource{number}")));
            *length = file.ok().map(|file| file.len());
        }
        Ok(Space::new(words, lengths))
    }

    /// Maps a BAR, until the process ends.
    pub(crate) fn map(&mut self, bar: &Bar) -> Result<NonNull<u8>, Error> {
        let file = format!("resource{}", bar.number);
        let map = || {
            let resource = self.open(&file)?;
            // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
            let start = unsafe {
                let protection = ProtFlags::READ | ProtFlags::WRITE;
                mmap(null_mut(), bar.bytes as usize, protection, MapFlags::SHARED, &resource, 0)
            }?;
            NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable.into())
        };
        map().map_err(self.failed(&file))
    }

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

/// The first disk by address, if there is one.
fn first_disk() -> io::Result<Option<PciAddress>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(FUNCTIONS)? {
        let entry = entry?;
        let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(address) = address
            && is_disk(identity(&entry.path())?)
        {
            found.push(address);
        }
    }
    Ok(found.into_iter().min())
}

/// The first word of a function's configuration space.
fn identity(folder: &Path) -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open(folder.join("config"))?.read_exact_at(&mut bytes, 0)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_a_variable_that_names_no_descriptor_is_refused() {
        for number in ["", "x", "-1", "65535", "99999999999999999999", "3 "] {
            assert!(matches!(adopt(number), Err(Error::NoPassedHandle)), "{number:?}");
        }
    }

    #[test]
    fn disks_are_known_by_what_they_are() {
        assert!(is_disk(0x1042_1af4) && is_disk(0x1001_1af4));
        assert!(!is_disk(0x1041_1af4) && !is_disk(0x1042_8086) && !is_disk(u32::MAX));
    }
}
