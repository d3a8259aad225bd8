//! A function by its channel at pcid.

use core::ptr::{NonNull, null_mut};
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};

use dma_types::PciAddress;
use libredox::call::{self, MmapArgs, fcntl};
use libredox::flag::{F_SETFD, MAP_SHARED, PROT_READ, PROT_WRITE};
use pcid_channel::{CHANNEL_VARIABLE, Config, bar};

use super::inherited::inherited;
use crate::error::Error;
use crate::{BARS, WORDS};

/// A PCI function whose channel this process holds.
#[derive(Debug)]
pub struct Function {
    /// As long as it is open, nobody else gets the function.
    channel: File,
    config: Config,
}

impl Function {
    /// The function whose channel this process was started with, or else the one at this address. There is no other way
    /// to find one, so that nothing is asked of `_is_one`.
    ///
    /// # Errors
    ///
    /// [`Error::OtherDevice`], [`Error::Pcid`], [`Error::System`].
    pub fn find(
        wanted: Option<PciAddress>,
        _is_one: impl Fn(u32) -> bool,
    ) -> Result<Option<Self>, Error> {
        let mut channel = match (inherited(CHANNEL_VARIABLE), wanted) {
            (Some(channel), _) => channel,
            (None, Some(address)) => {
                let path = format!("/scheme/pci/{}/channel", address.path_name());
                let opened = File::options().read(true).write(true).open(&path);
                opened.map_err(Error::system(path))?
            }
            (None, None) => return Ok(None),
        };
        let config = pcid_channel::ask(&mut channel)?;
        match wanted {
            Some(wanted) if wanted != config.address => {
                Err(Error::OtherDevice { passed: config.address, wanted })
            }
            _ => Ok(Some(Self { channel, config })),
        }
    }

    /// Which function it is.
    pub fn address(&self) -> PciAddress {
        self.config.address
    }

    /// The first word of its configuration space: the vendor and, above it, the device.
    ///
    /// # Errors
    ///
    /// [`Error::Pcid`].
    pub fn identity(&mut self) -> Result<u32, Error> {
        Ok(pcid_channel::read_config(&mut self.channel, 0)?)
    }

    /// Lets the children of this process inherit the channel: the variable that names it, and its value. Nobody else
    /// gets the function meanwhile, and this process must not use the channel any more.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn let_inherit(&self) -> Result<Option<(&'static str, String)>, Error> {
        let number = self.channel.as_raw_fd();
        fcntl(number as usize, F_SETFD as usize, 0)
            .map_err(|error| Error::system("cannot pass the channel on")(error.into()))?;
        Ok(Some((CHANNEL_VARIABLE, number.to_string())))
    }

    /// pcid has let the function answer when the channel was opened.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn let_answer(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// pcid has let it make requests, too.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn let_master(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Its configuration space as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Pcid`].
    pub fn words(&mut self) -> Result<[u32; WORDS], Error> {
        let mut words = [0; WORDS];
        for (offset, word) in (0..).step_by(4).zip(&mut words) {
            *word = pcid_channel::read_config(&mut self.channel, offset)?;
        }
        Ok(words)
    }

    /// How long each BAR is, if it is there.
    pub fn bar_bytes(&self) -> [Option<u64>; BARS] {
        self.config.bar_bytes()
    }

    /// Maps a BAR whole, uncached, until the process ends.
    ///
    /// # Errors
    ///
    /// [`Error::NoBar`], [`Error::System`].
    pub fn map(&mut self, bar: u32) -> Result<NonNull<[u8]>, Error> {
        let bytes = self.config.bar_bytes().get(bar as usize).copied().flatten();
        let bytes = bytes.ok_or(Error::NoBar(self.config.address, bar))?;
        // pcid does not check the length, so that it must be exactly the BAR's.
        let length = usize::try_from(bytes).map_err(|_| pcid_channel::Error::Meaningless)?;
        let arguments = MmapArgs {
            addr: null_mut(),
            length,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_SHARED,
            fd: self.channel.as_raw_fd() as usize,
            offset: bar::map_offset(bar),
        };
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { call::mmap(arguments) }
            .map_err(|error| Error::system("cannot map a BAR")(error.into()))?;
        let start = NonNull::new(start.cast()).ok_or(pcid_channel::Error::Meaningless)?;
        Ok(NonNull::slice_from_raw_parts(start, length))
    }

    /// Keeps the function until the process ends: the channel stays open, and as long as it is, nobody else gets it.
    pub fn keep(self) {
        let _ = self.channel.into_raw_fd();
    }
}
