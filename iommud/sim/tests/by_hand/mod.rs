//! What the rigs of both vendors do with their machine.

/// Memory, a unit's registers and the `edu` device's DMA, for a `Rig` with a `machine` and an `edu`, whose unit has its
/// registers at an address.
macro_rules! by_hand {
    ($unit:expr) => {
        impl Rig {
            pub(crate) fn put(&self, address: u64, word: u64) {
                assert!(self.machine.memory().write64(address, word));
            }

            pub(crate) fn get(&self, address: u64) -> u64 {
                self.machine.memory().read64(address).unwrap()
            }

            pub(crate) fn read32(&mut self, at: u64) -> u32 {
                self.machine.mmio_read($unit + at, 4) as u32
            }

            pub(crate) fn write32(&mut self, at: u64, value: u32) {
                self.machine.mmio_write($unit + at, 4, value.into());
            }

            pub(crate) fn read64(&mut self, at: u64) -> u64 {
                self.machine.mmio_read($unit + at, 8)
            }

            pub(crate) fn write64(&mut self, at: u64, value: u64) {
                self.machine.mmio_write($unit + at, 8, value);
            }

            pub(crate) fn dma_read(&mut self, address: u64) -> Result<u64, Blocked> {
                let mut word = [0; 8];
                self.machine.dma_read(self.edu, address, &mut word)?;
                Ok(u64::from_le_bytes(word))
            }

            pub(crate) fn dma_write(&mut self, address: u64, word: u64) -> Result<(), Blocked> {
                self.machine.dma_write(self.edu, address, &word.to_le_bytes())
            }

            /// Puts requests into a ring of a page from the tail on, which is in this register, and moves the tail.
            fn submit_to(&mut self, ring: u64, tail_register: u64, requests: &[(u64, u64)]) {
                let mut tail = self.read64(tail_register);
                for &(low, high) in requests {
                    self.put(ring + tail, low);
                    self.put(ring + tail + 8, high);
                    tail = (tail + 16) % 4096;
                }
                self.write64(tail_register, tail);
            }
        }
    };
}
