//! How large mappings can be, and how many address bits they need.

use crate::device::Device;
use crate::window::LONGEST_BLOCK;

/// ```
/// use libdma::Limits;
///
/// # for machine in [simulated::Machine::vtd(), simulated::Machine::amdvi()] {
/// # let mut device = machine.open();
/// // A device that looks at 30 bits of an address, takes 16 KiB at once and counts in 12 bits from there on.
/// device.set_limits(Limits::NONE.mask_bits(30).max_segment(0x4000).boundary(0x1000));
/// assert_eq!(device.max_mapping_size(), 0x1000);
/// assert_eq!(device.optimal_mapping_size(), 0x1000);
/// // It is worth it to have all of 32 bits, but not more: behind an IOMMU that is enough for all of memory.
/// assert_eq!(device.required_mask_bits(), 32);
/// # }
/// # let device = simulated::Machine::without_iommu().open();
/// # assert!(device.required_mask_bits() > 32);
/// ```
impl Device {
    /// The longest memory that is one mapping and one segment: Linux's `dma_max_mapping_size`. A
    /// [`ScatterList`](crate::ScatterList) takes more.
    ///
    /// Behind an IOMMU it is the longest buffer, 1 GiB, and without one the longest physical piece that iommud is ever given:
    /// 4 MiB on Redox, 2 MiB in a Linux guest, and more where the policy sets memory aside for this device or for all
    /// (`reserve`), in such pieces. Longer memory is [`NotContiguous`](crate::Error::NotContiguous) there. Of the
    /// [`Limits`](crate::Limits) and the DMA mask it is the least. As much may be had, as far as it is free.
    pub fn max_mapping_size(&self) -> u64 {
        let longest = self.limits().longest_single().min(self.session().longest_piece());
        longest.min(self.highest_address().get())
    }

    /// The longest memory that shares a window, so that mapping it is no request to iommud: Linux's
    /// `dma_opt_mapping_size`.
    pub fn optimal_mapping_size(&self) -> u64 {
        self.max_mapping_size().min(LONGEST_BLOCK as u64)
    }

    /// How many address bits the device should have, so that nothing must be copied: Linux's `dma_get_required_mask`.
    /// Behind an IOMMU these are 32, as on Linux, for I/O addresses are found below 4 GiB whatever memory they lead to, and fewer do
    /// as long as there is room. Without one they are what the machine's addresses have.
    pub fn required_mask_bits(&self) -> u32 {
        let last = self.session().last_address().get();
        let all = u64::BITS - last.leading_zeros();
        if self.is_confined() { all.min(32) } else { all }
    }
}
