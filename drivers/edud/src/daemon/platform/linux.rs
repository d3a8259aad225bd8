//! A process in a Linux guest.

use core::ptr::{NonNull, null_mut};
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dma_types::PciAddress;
use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::socket::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::bar::MappedBar;
use crate::daemon::error::Error;
use crate::pci::{COMMAND, Command};
use crate::registers::{BAR, DEVICE, VENDOR};

/// Where Linux shows the PCI functions, each a folder named by its address.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// The transport to iommud, for opening things.
pub fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Socket::connect()?)
}

/// Takes over a handle that was passed to this process as a descriptor of this number.
pub fn adopt(number: &str) -> Result<Handle, Error> {
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

/// Lets the children of this process inherit a handle, under its number.
pub fn let_inherit(handle: &Handle) -> Result<(), Error> {
    let number = RawFd::try_from(handle.raw().number()).map_err(|_| libdma::Error::BadHandle)?;
    // SAFETY: the handle is open for as long as it is borrowed here.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(descriptor, FdFlags::empty())
        .map_err(|errno| Error::system("cannot pass the handle on")(errno.into()))
}

/// Nobody on Linux waits to be told.
pub fn report_ready() -> Result<(), Error> {
    Ok(())
}

/// Waits until a handle has something to be read; whether it has.
pub fn wait_readable(handle: &Handle, patience: Duration) -> Result<bool, Error> {
    let number = RawFd::try_from(handle.raw().number()).map_err(|_| libdma::Error::BadHandle)?;
    // SAFETY: the handle is open for as long as it is borrowed here.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(|_| libdma::Error::BadValue)?;
    poll(&mut descriptors, Some(&patience))
        .map(|readable| readable > 0)
        .map_err(|errno| Error::system("cannot wait for the handle")(errno.into()))
}

/// A PCI function that is an `edu`, which no kernel driver has.
#[derive(Debug)]
pub struct Function {
    address: PciAddress,
    folder: PathBuf,
}

impl Function {
    /// The function at this address, or the first there is.
    pub fn find(wanted: Option<PciAddress>) -> Result<Self, Error> {
        let address = match wanted {
            Some(address) => address,
            None => first_edu().map_err(Error::system(FUNCTIONS))?.ok_or(Error::NoDevice)?,
        };
        let folder = Path::new(FUNCTIONS).join(address.to_string());
        match is_edu(&folder) {
            Ok(true) => Ok(Self { address, folder }),
            Ok(false) => Err(Error::NotEdu(address)),
            Err(error) => Err(Error::system(folder.display().to_string())(error)),
        }
    }

    /// Nothing but its address, by which anybody finds it.
    pub fn let_inherit(&self) -> Result<Option<(&'static str, String)>, Error> {
        Ok(None)
    }

    /// Which function it is.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Lets the function answer and do DMA, and maps its registers, until the process ends.
    pub fn switch_on(self) -> Result<MappedBar, Error> {
        let failed = |file: &str| Error::system(self.folder.join(file).display().to_string());
        fs::write(self.folder.join("enable"), "1").map_err(failed("enable"))?;
        self.write_command().map_err(failed("config"))?;
        self.map().map_err(failed("resource0"))
    }

    fn open(&self, file: &str) -> io::Result<File> {
        File::options().read(true).write(true).open(self.folder.join(file))
    }

    fn write_command(&self) -> io::Result<()> {
        let config = self.open("config")?;
        let mut bytes = [0; 2];
        config.read_exact_at(&mut bytes, COMMAND.into())?;
        let command = Command::from_bits_retain(u16::from_le_bytes(bytes)) | Command::DRIVEN;
        config.write_all_at(&command.bits().to_le_bytes(), COMMAND.into())
    }

    fn map(&self) -> io::Result<MappedBar> {
        let resource = self.open(&format!("resource{BAR}"))?;
        // The file is as long as the BAR.
        let bytes = resource.metadata()?.len() as usize;
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(null_mut(), bytes, protection, MapFlags::SHARED, &resource, 0)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: it was mapped just now, page-aligned, uncached as the kernel does for this file, and is
        // never unmapped.
        Ok(unsafe { MappedBar::new(start, bytes) })
    }
}

/// The first `edu` by address, if there is one.
fn first_edu() -> io::Result<Option<PciAddress>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(FUNCTIONS)? {
        let entry = entry?;
        let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(address) = address
            && is_edu(&entry.path())?
        {
            found.push(address);
        }
    }
    Ok(found.into_iter().min())
}

fn is_edu(folder: &Path) -> io::Result<bool> {
    let is = |file, number: u16| -> io::Result<bool> {
        Ok(fs::read_to_string(folder.join(file))?.trim_end() == format!("{number:#06x}"))
    };
    Ok(is("vendor", VENDOR)? && is("device", DEVICE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::fcntl_getfd;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn r5_a_variable_that_names_no_descriptor_is_refused() {
        for number in ["", "x", "-1", "65535", "99999999999999999999", "3 "] {
            assert!(matches!(adopt(number), Err(Error::NoPassedHandle)), "{number:?}");
        }
    }

    #[test]
    fn a_handle_is_inherited_only_where_it_is_passed_on() {
        let (ours, _its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let handle = Handle::new(Socket::unconnected(), Socket::adopt(ours));
        let number = handle.raw().number() as RawFd;
        // SAFETY: the handle that owns the descriptor lives to the end of the test.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let_inherit(&handle).unwrap();
        assert_eq!(fcntl_getfd(descriptor).unwrap(), FdFlags::empty());
        let adopted = adopt(&number.to_string()).unwrap();
        assert_eq!(fcntl_getfd(descriptor).unwrap(), FdFlags::CLOEXEC);
        // Both own the same number now, as parent and child would after an exec; close it once.
        core::mem::forget(adopted);
    }
}
