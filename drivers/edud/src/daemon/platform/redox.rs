//! A process on Redox.

use core::ptr::{NonNull, null_mut};
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::sync::Arc;

use dma_types::PciAddress;
use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
use libredox::call::{self, MmapArgs, fcntl};
use libredox::flag::{F_SETFD, MAP_SHARED, O_CLOEXEC, PROT_READ, PROT_WRITE};
use pcid_channel::{CHANNEL_VARIABLE, Config, bar};

use crate::bar::MappedBar;
use crate::daemon::error::Error;
use crate::registers::BAR;

/// The environment variable that holds the number of the pipe on which a driver says that it is ready.
const READY_VARIABLE: &str = "INIT_NOTIFY";

/// The transport to iommud, for opening things.
pub fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Scheme::new())
}

/// Takes over a handle that was passed to this process as a descriptor of this number.
pub fn adopt(number: &str) -> Result<Handle, Error> {
    let number = usize::from(number.parse::<u16>().map_err(|_| Error::NoPassedHandle)?);
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(number, F_SETFD as usize, O_CLOEXEC as usize).map_err(|_| Error::NoPassedHandle)?;
    // SAFETY: the descriptor is open, since its flags could be set, and whoever passed it gave it to us.
    Ok(Handle::new(Scheme::new(), unsafe { Scheme::adopt(number) }))
}

/// Lets the children of this process inherit a handle, under its number.
pub fn let_inherit(handle: &Handle) -> Result<(), Error> {
    fcntl(handle.raw().number() as usize, F_SETFD as usize, 0)
        .map(drop)
        .map_err(|error| Error::system("cannot pass the handle on")(error.into()))
}

/// Tells pcid-spawner or init, whichever started this process, that the driver is ready.
pub fn report_ready() -> Result<(), Error> {
    let Some(mut pipe) = inherited(READY_VARIABLE) else { return Ok(()) };
    match pipe.write_all(&[0]) {
        // Init gives every service a pipe, and waits at the other end of some alone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told.map_err(Error::system(READY_VARIABLE)),
    }
}

/// A PCI function whose channel this process holds.
#[derive(Debug)]
pub struct Function {
    channel: File,
    config: Config,
}

impl Function {
    /// The function whose channel this process was started with, or else the one at this address.
    pub fn find(wanted: Option<PciAddress>) -> Result<Self, Error> {
        let mut channel = match (inherited(CHANNEL_VARIABLE), wanted) {
            (Some(channel), _) => channel,
            (None, Some(address)) => {
                let path = format!("/scheme/pci/{}/channel", address.path_name());
                let opened = File::options().read(true).write(true).open(&path);
                opened.map_err(Error::system(path))?
            }
            (None, None) => return Err(Error::NoDevice),
        };
        let config = pcid_channel::ask(&mut channel)?;
        match wanted {
            Some(wanted) if wanted != config.address => {
                Err(Error::OtherDevice { passed: config.address, wanted })
            }
            _ => Ok(Self { channel, config }),
        }
    }

    /// Which function it is.
    pub fn address(&self) -> PciAddress {
        self.config.address
    }

    /// Lets the children of this process inherit the channel: the variable that names it, and its value. Nobody else
    /// gets the function meanwhile, and this process must not use the channel any more.
    pub fn let_inherit(&self) -> Result<Option<(&'static str, String)>, Error> {
        let number = self.channel.as_raw_fd();
        fcntl(number as usize, F_SETFD as usize, 0)
            .map_err(|error| Error::system("cannot pass the channel on")(error.into()))?;
        Ok(Some((CHANNEL_VARIABLE, number.to_string())))
    }

    /// Maps the function's registers, until the process ends. pcid has let the function answer and do DMA
    /// when the channel was opened.
    pub fn switch_on(self) -> Result<MappedBar, Error> {
        let bytes = self.config.bar_bytes[BAR as usize];
        let bytes = bytes.ok_or(Error::NotEdu(self.config.address))?;
        // pcid does not check the length, so that it must be exactly the BAR's.
        let length = usize::try_from(bytes).map_err(|_| pcid_channel::Error::Meaningless)?;
        let arguments = MmapArgs {
            addr: null_mut(),
            length,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_SHARED,
            fd: self.channel.as_raw_fd() as usize,
            offset: bar::map_offset(BAR),
        };
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { call::mmap(arguments) }
            .map_err(|error| Error::system("cannot map the BAR")(error.into()))?;
        // The channel stays open: as long as it is, nobody else gets the function.
        let _ = self.channel.into_raw_fd();
        let start = NonNull::new(start.cast()).ok_or(pcid_channel::Error::Meaningless)?;
        // SAFETY: it was mapped just now, page-aligned, uncached as the offset says, and is never unmapped.
        Ok(unsafe { MappedBar::new(start, length) })
    }
}

/// The descriptor that a variable names, if it is set.
fn inherited(variable: &str) -> Option<File> {
    let number: u16 = env::var(variable).ok()?.parse().ok()?;
    // SAFETY: whoever started this process made the descriptor over to it under this variable. Each
    // variable is looked at once.
    Some(unsafe { File::from_raw_fd(RawFd::from(number)) })
}
