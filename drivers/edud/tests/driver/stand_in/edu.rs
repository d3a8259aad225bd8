//! The device's registers and its DMA engine, by QEMU's `docs/specs/edu.rst`.

use std::sync::Mutex;

use edud::Bar;

use super::Iommu;

/// A register model of `edu`.
pub(crate) struct Edu {
    iommu: Iommu,
    state: Mutex<State>,
}

struct State {
    liveness: u32,
    /// Source, destination, count, command.
    dma: [u64; 4],
    /// How many looks at the command register a transfer lasts.
    remaining: u32,
    buffer: [u8; 4096],
}

impl Edu {
    pub(crate) fn new(iommu: Iommu) -> Self {
        let state = State { liveness: 0, dma: [0; 4], remaining: 0, buffer: [0; 4096] };
        Self { iommu, state: Mutex::new(state) }
    }

    /// A device that its last driver left in a transfer that never ends.
    pub(crate) fn stuck(iommu: Iommu) -> Self {
        let edu = Self::new(iommu);
        {
            let mut state = edu.state.lock().unwrap();
            state.dma[3] = 1;
            state.remaining = u32::MAX;
        }
        edu
    }

    fn transfer(&self, state: &mut State) {
        let [source, destination, count, command] = state.dma;
        let to_memory = command & 2 != 0;
        let (inside, outside) =
            if to_memory { (source, destination) } else { (destination, source) };
        let start = inside as usize - 0x40000;
        assert!(count > 0 && start + (count as usize) < 4096, "this would stop QEMU 7.2");
        for (at, byte) in state.buffer[start..][..count as usize].iter_mut().enumerate() {
            let address = outside + at as u64;
            if to_memory {
                self.iommu.device_writes(address, *byte);
            } else {
                *byte = self.iommu.device_reads(address);
            }
        }
        state.dma[3] &= !1;
    }
}

impl Bar for Edu {
    fn read32(&self, offset: usize) -> u32 {
        match offset {
            0 => 0x0100_00ed,
            4 => self.state.lock().unwrap().liveness,
            _ => u32::MAX,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if offset == 4 {
            self.state.lock().unwrap().liveness = !value;
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let mut state = self.state.lock().unwrap();
        match offset {
            0x98 if state.dma[3] & 1 != 0 => {
                let command = state.dma[3];
                match state.remaining.checked_sub(1) {
                    Some(remaining) => state.remaining = remaining,
                    None => self.transfer(&mut state),
                }
                command
            }
            0x80 | 0x88 | 0x90 | 0x98 => state.dma[(offset - 0x80) / 8],
            _ => u64::MAX,
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.state.lock().unwrap();
        if state.dma[3] & 1 != 0 {
            return;
        }
        match offset {
            0x80 | 0x88 | 0x90 => state.dma[(offset - 0x80) / 8] = value,
            0x98 if value & 1 != 0 => {
                state.dma[3] = value;
                state.remaining = 1;
            }
            _ => {}
        }
    }
}
