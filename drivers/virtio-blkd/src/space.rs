//! A function's configuration space as virtio-drivers wants it.

use dma_types::PciAddress;
use driver_platform::{BARS, WORDS};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

/// Where the first BAR is among the words of configuration space (PCI 3.0, 6.1).
const FIRST_BAR: usize = 0x10 / size_of::<u32>();

/// What of a memory BAR's first word is no address (PCI 3.0, 6.2.5.1).
const BAR_FLAGS: u32 = 0xf;
/// The BAR is of I/O ports.
const BAR_IO: u32 = 1;
/// Which of a memory BAR's flags say where it may lie.
const BAR_TYPE: u32 = 0b110;
/// Of those, anywhere in 64 bits: the next BAR has the upper half of the address.
const BAR_64: u32 = 0b100;

/// A copy of a function's configuration space.
///
/// virtio-drivers finds out how long a BAR is as firmware does: it writes ones to it and looks which stay. On a machine
/// that runs this is the operating system's business, which knows already. So it reads and writes this copy, which
/// answers as the BAR would, and the function itself stays as it is.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    words: [u32; WORDS],
    /// How long each BAR is, if it is there.
    bytes: [Option<u64>; BARS],
    /// Which BARs have been written ones to.
    asked: [bool; BARS],
}

/// A BAR of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) number: u32,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl Space {
    /// Of these words, and with BARs of these lengths.
    pub(crate) fn new(words: [u32; WORDS], bytes: [Option<u64>; BARS]) -> Self {
        Self { words, bytes, asked: [false; BARS] }
    }

    /// The BARs of device memory.
    pub(crate) fn memory_bars(&self) -> impl Iterator<Item = Bar> {
        (0..BARS).filter_map(|number| {
            let bytes = self.bytes[number]?;
            let low = self.words[FIRST_BAR + number];
            if low & BAR_IO != 0 {
                return None;
            }
            let high = match low & BAR_TYPE == BAR_64 {
                true if number + 1 == BARS => return None,
                true => self.words[FIRST_BAR + number + 1],
                false => 0,
            };
            let address = u64::from(high) << 32 | u64::from(low & !BAR_FLAGS);
            Some(Bar { number: number as u32, address, bytes })
        })
    }

    /// What a BAR reads as after ones have been written to it: those of the bits that can be changed.
    fn size_mask(&self, bar: usize) -> u32 {
        let mask = |bytes: u64| !bytes.wrapping_sub(1);
        let below = bar.checked_sub(1).filter(|below| self.is_64(*below));
        match (below.and_then(|below| self.bytes[below]), self.bytes[bar]) {
            (Some(bytes), _) => (mask(bytes) >> 32) as u32,
            (None, Some(bytes)) => {
                let flags = self.words[FIRST_BAR + bar] & BAR_FLAGS;
                mask(bytes) as u32 & !BAR_FLAGS | flags
            }
            (None, None) => 0,
        }
    }

    fn is_64(&self, bar: usize) -> bool {
        self.words[FIRST_BAR + bar] & (BAR_TYPE | BAR_IO) == BAR_64
    }
}

/// The function's place on its bus, in virtio-drivers' words.
pub(crate) fn place(address: PciAddress) -> DeviceFunction {
    DeviceFunction { bus: address.bus(), device: address.device(), function: address.function() }
}

impl ConfigurationAccess for Space {
    fn read_word(&self, _: DeviceFunction, register_offset: u8) -> u32 {
        let word = usize::from(register_offset) / size_of::<u32>();
        match word.checked_sub(FIRST_BAR) {
            Some(bar) if bar < BARS && self.asked[bar] => self.size_mask(bar),
            _ => self.words[word],
        }
    }

    /// Ones to a BAR ask how long it is, and anything else ends that. All other writes are lost.
    fn write_word(&mut self, _: DeviceFunction, register_offset: u8, data: u32) {
        let word = usize::from(register_offset) / size_of::<u32>();
        if let Some(bar) = word.checked_sub(FIRST_BAR)
            && bar < BARS
        {
            self.asked[bar] = data == u32::MAX;
        }
    }

    /// What is written to one is not seen in the other.
    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_drivers::transport::pci::bus::{BarInfo, MemoryBarType, PciRoot};

    fn space() -> Space {
        let mut words = [0; WORDS];
        // 4 KiB of 32 bits, ports, and 16 KiB of 64 bits that can be prefetched.
        words[FIRST_BAR..][..6].copy_from_slice(&[0xfebf_0000, 0xc001, 0, 0, 0x1000_000c, 0x38]);
        Space::new(words, [Some(0x1000), Some(0x80), None, None, Some(0x4000), None])
    }

    #[test]
    fn bars_are_measured_without_a_write_to_the_function() {
        let function = DeviceFunction { bus: 0, device: 6, function: 0 };
        let mut root = PciRoot::new(space());
        let memory = |address_type, prefetchable, address, size| {
            Some(BarInfo::Memory { address_type, prefetchable, address, size })
        };
        let expected = [
            memory(MemoryBarType::Width32, false, 0xfebf_0000, 0x1000),
            Some(BarInfo::IO { address: 0xc000, size: 0x80 }),
            None,
            None,
            memory(MemoryBarType::Width64, true, 0x38_1000_0000, 0x4000),
            None,
        ];
        assert_eq!(root.bars(function).unwrap(), expected);
        assert_eq!(root.bars(function).unwrap(), expected, "as they were");
    }

    #[test]
    fn only_bars_of_memory_are_mapped() {
        let bars: Vec<_> = space().memory_bars().collect();
        let bar = |number, address, bytes| Bar { number, address, bytes };
        assert_eq!(bars, [bar(0, 0xfebf_0000, 0x1000), bar(4, 0x38_1000_0000, 0x4000)]);
    }

    #[test]
    fn r5_a_last_bar_of_64_bits_is_none() {
        let mut space = space();
        space.words[FIRST_BAR + 5] = BAR_64;
        space.bytes[5] = Some(0x1000);
        assert_eq!(space.memory_bars().last().unwrap().number, 4);
    }
}
