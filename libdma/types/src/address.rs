//! One type for each address space, so that they never mix by accident.
//!
//! A driver hands its device an [`Iova`], reads and writes through a [`CpuAddr`], and never sees a
//! [`PhysAddr`]: a client that could name one could name any memory there is (rule R3).

use core::fmt;

/// The size in bytes of the smallest page that an IOMMU maps, and the granule of everything here.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value, in bytes from the start of its space.
            #[inline]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The address as a number of bytes from the start of its space.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the space.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `alignment`, which must be a power of two.
            #[inline]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                debug_assert!(alignment.is_power_of_two());
                self.0 & (alignment - 1) == 0
            }

            /// The start of the 4 KiB page that holds this address.
            #[inline]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The offset of this address in its 4 KiB page.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(self, f)
            }
        }

        impl fmt::LowerHex for $name {
            /// Always with the prefix: an address without it reads as a count.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0u8; 18];
                let text = hex(self.0, &mut digits);
                f.pad(text)
            }
        }
    };
}

/// Writes `value` as `0x…` into `digits` and gives the part written.
fn hex(value: u64, digits: &mut [u8; 18]) -> &str {
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(rest & 0xf) as usize];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    at -= 2;
    digits[at] = b'0';
    digits[at + 1] = b'x';
    core::str::from_utf8(&digits[at..]).unwrap_or_default()
}

address! {
    /// A physical address: what an IOMMU's tables translate *to*.
    PhysAddr
}

address! {
    /// An I/O virtual address: what a device puts on the bus, and what an IOMMU translates *from*.
    ///
    /// Linux calls it `dma_addr_t`. It is meaningless to every device but those attached to the
    /// domain it was mapped in.
    Iova
}

address! {
    /// A virtual address in some process: where a CPU sees a buffer.
    ///
    /// It says nothing about which process; it is a number for reports, and a pointer only in the
    /// process that mapped it.
    CpuAddr
}

impl<T: ?Sized> From<core::ptr::NonNull<T>> for CpuAddr {
    fn from(pointer: core::ptr::NonNull<T>) -> Self {
        Self::new(pointer.as_ptr().cast::<u8>() as usize as u64)
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::format;

    #[test]
    fn addresses_print_with_prefix_and_honour_width() {
        assert_eq!(format!("{}", Iova::new(0)), "0x0");
        assert_eq!(format!("{:>8}|", Iova::new(0xfee0)), "  0xfee0|");
        assert_eq!(format!("{}", PhysAddr::new(u64::MAX)), "0xffffffffffffffff");
        assert_eq!(format!("{:?}", PhysAddr::new(0x1000)), "PhysAddr(0x1000)");
    }

    #[test]
    fn addition_past_the_end_of_the_space_is_none() {
        assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
        assert_eq!(Iova::new(1).checked_add(2), Some(Iova::new(3)));
    }

    #[test]
    fn page_and_offset_split_an_address() {
        let address = PhysAddr::new(0x12345);
        assert_eq!(address.page(), PhysAddr::new(0x12000));
        assert_eq!(address.page_offset(), 0x345);
        assert!(address.page().is_aligned(PAGE_SIZE));
    }
}
