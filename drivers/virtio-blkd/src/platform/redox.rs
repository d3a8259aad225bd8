//! A process on Redox.

use core::ptr::{NonNull, null_mut};
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;

use dma_types::PciAddress;
use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
use libredox::call::{self, MmapArgs, fcntl};
use libredox::flag::{F_SETFD, MAP_SHARED, O_CLOEXEC, PROT_READ, PROT_WRITE};
use pcid_channel::{CHANNEL_VARIABLE, Config, bar};

use super::is_disk;
use crate::error::Error;
use crate::space::{Bar, Space};

/// The environment variable that holds the number of the pipe on which a driver says that it is ready.
const READY_VARIABLE: &str = "INIT_NOTIFY";

/// The transport to iommud, for opening things.
pub(crate) fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Scheme::new())
}

/// Takes over a handle that was passed to this process as a descriptor of this number.
pub(crate) fn adopt(number: &str) -> Result<Handle, Error> {
    let number = usize::from(number.parse::<u16>().map_err(|_| Error::NoPassedHandle)?);
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(number, F_SETFD as usize, O_CLOEXEC as usize).map_err(|_| Error::NoPassedHandle)?;
    // SAFETY: the descriptor is open, since its flags could be set, and whoever passed it gave it to us.
    Ok(Handle::new(Scheme::new(), unsafe { Scheme::adopt(number) }))
}

/// Tells pcid-spawner or init, whichever started this process, that the driver is ready.
pub(crate) fn report_ready() -> Result<(), Error> {
    let Some(mut pipe) = inherited(READY_VARIABLE) else { return Ok(()) };
    match pipe.write_all(&[0]) {
        // Init gives every service a pipe, and waits at the other end of some alone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told.map_err(Error::system(READY_VARIABLE)),
    }
}

/// A PCI function whose channel this process holds.
#[derive(Debug)]
pub(crate) struct Function {
    /// As long as it is open, nobody else gets the function.
    channel: File,
    config: Config,
}

impl Function {
    /// The function whose channel this process was started with, or else the one at this address.
    pub(crate) fn find(wanted: Option<PciAddress>) -> Result<Self, Error> {
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
                return Err(Error::OtherDevice { passed: config.address, wanted });
            }
            _ => {}
        }
        if !is_disk(pcid_channel::read_config(&mut channel, 0)?) {
            return Err(Error::NotADisk(config.address));
        }
        Ok(Self { channel, config })
    }

    /// Which function it is.
    pub(crate) fn address(&self) -> PciAddress {
        self.config.address
    }

    /// pcid has let the function answer when the channel was opened.
    pub(crate) fn let_answer(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// pcid has let it make requests, too. Until the disk has been reset, nothing is mapped for it.
    pub(crate) fn let_master(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Its configuration space as it is now.
    pub(crate) fn space(&mut self) -> Result<Space, Error> {
        let mut words = [0; 64];
        for (offset, word) in (0..).step_by(4).zip(&mut words) {
            *word = pcid_channel::read_config(&mut self.channel, offset)?;
        }
        Ok(Space::new(words, self.config.bar_bytes))
    }

    /// Maps a BAR, until the process ends.
    pub(crate) fn map(&mut self, bar: &Bar) -> Result<NonNull<u8>, Error> {
        // pcid does not check the length, so that it must be exactly the BAR's.
        let length = usize::try_from(bar.bytes).map_err(|_| pcid_channel::Error::Meaningless)?;
        let arguments = MmapArgs {
            addr: null_mut(),
            length,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_SHARED,
            fd: self.channel.as_raw_fd() as usize,
            offset: bar::map_offset(bar.number),
        };
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { call::mmap(arguments) }
            .map_err(|error| Error::system("cannot map a BAR")(error.into()))?;
        NonNull::new(start.cast()).ok_or(pcid_channel::Error::Meaningless.into())
    }
}

/// The descriptor that a variable names, if it is set.
fn inherited(variable: &str) -> Option<File> {
    let number: u16 = env::var(variable).ok()?.parse().ok()?;
    // SAFETY: whoever started this process made the descriptor over to it under this variable. Each
    // variable is looked at once.
    Some(unsafe { File::from_raw_fd(RawFd::from(number)) })
}
