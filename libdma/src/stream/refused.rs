//! A step that failed, and what it was to change, unchanged.

use alloc::boxed::Box;
use core::fmt;

use crate::protocol::Error;

/// A step that failed, and what it was to change, which is as it was (rule R7). `?` turns it into its [`Error`], and drops
/// what it was about. On Linux it is `dma_mapping_error`, which says neither.
///
/// ```
/// use libdma::stream::Refused;
/// use libdma::{Access, Error, Limits, ToDevice};
///
/// # let machine = simulated::Machine::vtd();
/// # let mut device = machine.open();
/// // The device has no more than 13 address bits, and all of their addresses are taken.
/// device.set_limits(Limits::NONE.mask_bits(13));
/// let taken = device.allocate(4096, Some(Access::Read), "taken")?;
/// let stream = device.stream::<ToDevice>("tx").strict();
/// let Err(Refused { error, kept: buffer }) = stream.copy_of(b"packet")?.map() else { panic!() };
/// assert_eq!(error, Error::NoAddressSpace);
///
/// drop(taken);
/// let mapped = buffer.map()?;
/// assert_eq!(machine.device_reads(mapped.iova(), 6), Ok(b"packet".to_vec()));
/// # Ok::<(), Error>(())
/// ```
///
/// A `Box<dyn core::error::Error>` outlives whatever is borrowed where it is made. A step about something that borrows, as a
/// list to which buffers were lent, fails there with its [`Error`] alone: `.map_err(Error::from)?`.
///
/// ```
/// use libdma::{Device, Error, ScatterList, ToDevice};
///
/// fn send(device: &Device) -> Result<(), Box<dyn core::error::Error>> {
///     let stream = device.stream::<ToDevice>("tx");
///     let mut header = stream.copy_of(b"header")?;
///     let mut list = ScatterList::new(&stream);
///     list.lend(&mut header, 0..6)?;
///     let mapped = list.map().map_err(Error::from)?;
///     drop(mapped.unmap().map_err(Error::from)?);
///     Ok(())
/// }
/// # let machine = simulated::Machine::vtd();
/// # send(&machine.open()).unwrap();
/// ```
pub struct Refused<T> {
    /// Why.
    pub error: Error,
    /// What the step was about.
    pub kept: Box<T>,
}

impl<T> Refused<T> {
    #[cold]
    pub(crate) fn new(error: Error, kept: T) -> Self {
        Self { error, kept: Box::new(kept) }
    }

    /// What the step was about, as it was before.
    pub fn into_kept(self) -> T {
        *self.kept
    }
}

/// What a step leads to, or what it began with, if it failed.
pub type Step<Next, Before> = Result<Next, Refused<Before>>;

impl<T> From<Refused<T>> for Error {
    fn from(refused: Refused<T>) -> Self {
        refused.error
    }
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> core::error::Error for Refused<T> {}
