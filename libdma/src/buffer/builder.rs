//! What a buffer is to be.

use dma_types::{Access, PAGE_SIZE};

use super::Buffer;
use crate::attributes::Attributes;
use crate::check::Kind;
#[cfg(feature = "virtio")]
use crate::check::Place;
use crate::device::Device;
use crate::protocol::{Error, derive};
use crate::session::BufferRequest;
use crate::unmapped::UnmappedBuffer;

/// What a buffer is to be: [`Device::buffer`] begins one, and [`allocate`](Self::allocate) or
/// [`allocate_unmapped`](Self::allocate_unmapped) allocates it.
///
/// ```
/// use libdma::{Access, Attributes, CacheType};
///
/// # let machine = simulated::Machine::vtd();
/// # let device = machine.open();
/// let table = device
///     .buffer("table")
///     .access(Access::Read)
///     .align(1 << 16)
///     .attributes(Attributes::FORCE_CONTIGUOUS | Attributes::WRITE_COMBINE)
///     .allocate(3 << 12)?;
/// assert!(table.iova().unwrap().get().is_multiple_of(1 << 16));
/// // In one piece, for that is no wish; but a process on Redox or Linux does not get it write-combined.
/// assert_eq!(table.cache_type(), CacheType::WriteBack);
/// # drop((table, device));
/// # machine.check();
/// # Ok::<(), libdma::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is allocated yet"]
pub struct Builder<'a> {
    device: &'a Device,
    label: &'a str,
    access: Option<Access>,
    align: u64,
    attributes: Attributes,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(device: &'a Device, label: &'a str) -> Self {
        let attributes = Attributes::empty();
        Self { device, label, access: None, align: PAGE_SIZE, attributes }
    }

    /// Maps it at once, and what the device may do with it. Unless this says so, the device does not reach it before
    /// it is mapped by [`Device::map`], a stream or a domain.
    pub fn access(self, access: impl Into<Option<Access>>) -> Self {
        Self { access: access.into(), ..self }
    }

    /// What its I/O address is a multiple of, if it is mapped at once: a power of two, at least 4096, which is what it is
    /// unless this says more.
    ///
    /// Without an IOMMU memory is aligned as it lies, so that there a buffer is as long as its alignment at the least:
    /// [`Error::NotContiguous`] if that is more than [`Device::max_mapping_size`].
    pub fn align(self, align: u64) -> Self {
        Self { align, ..self }
    }

    /// With attributes: Linux's `dma_alloc_attrs`.
    pub fn attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// In one piece of physical memory, which starts at a multiple of its length rounded up to a power of two, or of
    /// 4 MiB if that is less: Linux's `DMA_ATTR_FORCE_CONTIGUOUS`, and short for that attribute beside the others.
    ///
    /// It comes out of the reserve of iommud's policy, the device's own before that of all, where one is set aside: Linux's
    /// `dma_contiguous_reserve` and `dma_declare_contiguous`. Then it may be longer.
    ///
    /// ```
    /// use libdma::{Access, Error};
    ///
    /// # use iommu_engine::policy::{Devices, Policy, Rule};
    /// # let rule = Rule { reserve: Some(16 << 20), ..Rule::new(Devices::At(simulated::edu())) };
    /// # let policy = Policy { rules: vec![rule], ..Policy::default() };
    /// # let machine = simulated::Machine::start(iommu_sim::MachineConfig::default(), policy);
    /// # let device = machine.open();
    /// // iommud's policy says: rules: [ (device: "0000:00:02.0", reserve: "16 MiB"), .. ]
    /// let video = device.buffer("video").access(Access::ReadWrite).contiguous().allocate(8 << 20)?;
    /// let refused = device.buffer("longer than the reserve").contiguous().allocate(32 << 20);
    /// assert_eq!(refused.err(), Some(Error::NotContiguous));
    /// # drop((video, device));
    /// # machine.check();
    /// # Ok::<(), Error>(())
    /// ```
    pub fn contiguous(self) -> Self {
        Self { attributes: self.attributes | Attributes::FORCE_CONTIGUOUS, ..self }
    }

    /// Allocates it, of zeroes, and maps it into this process. `bytes` is rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`]; [`Error::BadAlignment`]; [`Error::NotContiguous`] for more in one piece than iommud is
    /// ever given, which on Redox is 4 MiB; [`Error::NoCpuMapping`] with
    /// [`NO_CPU_MAPPING`](Attributes::NO_CPU_MAPPING), which is what
    /// [`allocate_unmapped`](Self::allocate_unmapped) is for.
    #[track_caller]
    pub fn allocate(self, bytes: u64) -> Result<Buffer, Error> {
        Ok(self.mapped(bytes)?.marked(self.access, self.label))
    }

    /// The same, mapped nowhere in this process: Linux's `DMA_ATTR_NO_KERNEL_MAPPING`, whether the attributes say so
    /// or not.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate), but for [`Error::NoCpuMapping`].
    #[track_caller]
    pub fn allocate_unmapped(self, bytes: u64) -> Result<UnmappedBuffer, Error> {
        let Self { device, label, access, .. } = self;
        let request = self.request(bytes)?;
        let allocate = || device.session().allocate_unmapped(&request);
        let buffer = device.windows().after_trimming(allocate)?;
        Ok(buffer.marked(Kind::Buffer, access, label))
    }

    /// As [`allocate`](Self::allocate), for a driver that is there in the code.
    #[cfg(feature = "virtio")]
    pub(crate) fn allocate_at(self, driver: Place, bytes: u64) -> Result<Buffer, Error> {
        Ok(self.mapped(bytes)?.marked_at(driver, self.access, self.label))
    }

    /// The buffer, of which the checker does not know yet.
    fn mapped(&self, bytes: u64) -> Result<Buffer, Error> {
        let Self { device, attributes, .. } = *self;
        if attributes.contains(Attributes::NO_CPU_MAPPING) {
            return Err(Error::NoCpuMapping);
        }
        let request = self.request(bytes)?;
        device.windows().after_trimming(|| device.session().allocate(&request))
    }

    fn request(&self, bytes: u64) -> Result<BufferRequest<'a>, Error> {
        let Self { device, label, access, align, attributes } = *self;
        let contiguous = attributes.contains(Attributes::FORCE_CONTIGUOUS);
        Ok(BufferRequest {
            kind: if contiguous {
                derive::Kind::AllocateContiguous
            } else {
                derive::Kind::Allocate
            },
            bytes: bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Error::TooLarge)?,
            align,
            access,
            limit: device.highest_coherent_address(),
            cache: attributes.cache_type(),
            label,
        })
    }
}
