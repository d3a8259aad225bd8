//! What a device can be given: its DMA masks, and the shape of the segments that it takes.

use dma_types::{Iova, PAGE_SIZE};

/// What a device can be given. The default is a device that takes everything.
///
/// It is made of constants, and a constant that means nothing does not compile:
///
/// ```
/// use libdma::Limits;
///
/// /// 32 address bits; segments of 64 KiB at the most, none of which crosses a multiple of 64 KiB.
/// const LIMITS: Limits = Limits::NONE.mask_bits(32).max_segment(0x1_0000).boundary(0x1_0000);
/// assert_eq!(LIMITS.mask().get(), 0xffff_ffff);
///
/// # let machine = simulated::Machine::vtd();
/// # let mut device = machine.open();
/// device.set_limits(LIMITS);
/// let stream = device.stream::<libdma::ToDevice>("write");
/// let mut list = libdma::ScatterList::new(&stream);
/// list.push(stream.buffer(0x1_8000)?)?;
/// let list = list.map()?;
/// assert_eq!(list.segments().len(), 2);
/// assert!(list.segments().iter().all(|it| it.iova.get() + it.bytes <= 1 << 32));
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// ```compile_fail,E0080
/// const LIMITS: libdma::Limits = libdma::Limits::NONE.mask_bits(65);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    mask: Iova,
    coherent_mask: Iova,
    max_segment: u64,
    boundary: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

impl Limits {
    /// A device that takes everything.
    pub const NONE: Self = Self {
        mask: Iova::new(u64::MAX),
        coherent_mask: Iova::new(u64::MAX),
        max_segment: u64::MAX,
        boundary: u64::MAX,
    };

    /// With so many address bits for streaming buffers and for coherent memory: Linux's
    /// `dma_set_mask_and_coherent`.
    ///
    /// # Panics
    ///
    /// For fewer than 13 bits or more than 64; at build time in a constant. Page zero is never given out.
    pub const fn mask_bits(self, bits: u32) -> Self {
        match self.try_mask(bits) {
            Some(limits) => limits,
            None => panic!("a DMA mask has 13 to 64 bits"),
        }
    }

    /// With so many address bits for coherent memory alone: Linux's `dma_set_coherent_mask`.
    ///
    /// # Panics
    ///
    /// As [`mask_bits`](Self::mask_bits).
    pub const fn coherent_mask_bits(self, bits: u32) -> Self {
        match last_of(bits) {
            Some(coherent_mask) => Self { coherent_mask, ..self },
            None => panic!("a DMA mask has 13 to 64 bits"),
        }
    }

    /// With segments of so many bytes at the most: Linux's `dma_set_max_seg_size`.
    ///
    /// # Panics
    ///
    /// For none; at build time in a constant.
    pub const fn max_segment(self, bytes: u64) -> Self {
        assert!(bytes > 0, "a segment has one byte at least");
        Self { max_segment: bytes, ..self }
    }

    /// With segments none of which crosses a multiple of `boundary`: Linux's `dma_set_seg_boundary`, which takes
    /// one less.
    ///
    /// # Panics
    ///
    /// If it is not a power of two, or less than 4096; at build time in a constant.
    pub const fn boundary(self, boundary: u64) -> Self {
        assert!(boundary.is_power_of_two(), "a segment boundary is a power of two");
        assert!(boundary >= PAGE_SIZE, "a segment boundary is 4096 at least");
        Self { boundary, ..self }
    }

    /// As [`mask_bits`](Self::mask_bits), where the number is not known before.
    pub const fn try_mask(self, bits: u32) -> Option<Self> {
        match last_of(bits) {
            Some(mask) => Some(Self { mask, coherent_mask: mask, ..self }),
            None => None,
        }
    }

    /// The highest address of a streaming buffer.
    pub const fn mask(self) -> Iova {
        self.mask
    }

    /// The highest address of coherent memory.
    pub const fn coherent_mask(self) -> Iova {
        self.coherent_mask
    }

    /// The longest segment, in bytes.
    pub const fn max_segment_bytes(self) -> u64 {
        self.max_segment
    }

    /// What no segment crosses a multiple of; `u64::MAX` if it may cross anything.
    pub const fn segment_boundary(self) -> u64 {
        self.boundary
    }

    /// The longest piece of memory that is one segment if it is aligned to its length rounded up to a power of two.
    pub(crate) const fn longest_single(self) -> u64 {
        if self.boundary < self.max_segment { self.boundary } else { self.max_segment }
    }
}

/// The highest address of so many bits.
const fn last_of(bits: u32) -> Option<Iova> {
    if bits < 13 || bits > 64 { None } else { Some(Iova::new(u64::MAX >> (64 - bits))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_all_the_bits() {
        assert_eq!(Limits::NONE.mask_bits(64), Limits::NONE);
        assert_eq!(Limits::NONE.mask_bits(13).coherent_mask(), Iova::new(0x1fff));
        let apart = Limits::NONE.mask_bits(64).coherent_mask_bits(32);
        assert_eq!((apart.mask().get(), apart.coherent_mask().get()), (u64::MAX, 0xffff_ffff));
        assert_eq!((Limits::NONE.try_mask(12), Limits::NONE.try_mask(65)), (None, None));
    }
}
