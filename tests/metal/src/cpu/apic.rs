//! The local APIC, as far as one sees in it that an interrupt has come (Intel SDM, volume 3, chapter "Advanced
//! Programmable Interrupt Controller").
//!
//! This guest takes no interrupts. What comes stays requested, and so each is asked for with a vector of its own.

use core::sync::atomic::{AtomicU8, Ordering};

use dma_types::PhysAddr;
use iommu_engine::platform::{MsiMessage, PlatformError, RegisterWindow, Registers};

/// Where it is, and where messages to this processor go.
pub const BASE: PhysAddr = PhysAddr::new(0xfee0_0000);

/// Offsets of registers.
mod register {
    /// The spurious interrupt vector, and whether the APIC is on.
    pub(super) const SPURIOUS: usize = 0xf0;
    /// Interrupts that are requested: 32 vectors each, 16 bytes apart.
    pub(super) const REQUESTED: usize = 0x200;
    pub(super) const END: usize = 0x400;
}

/// In the spurious vector's register: the APIC takes interrupts.
const ENABLE: u32 = 1 << 8;

/// The processor's APIC, on.
#[derive(Clone, Copy, Debug)]
pub struct Apic(RegisterWindow);

impl Apic {
    /// Turns it on.
    ///
    /// # Errors
    ///
    /// When its registers are not mapped.
    pub fn turn_on(platform: &mut impl Registers) -> Result<Self, PlatformError> {
        let window = platform.map_registers(BASE, register::END)?;
        let spurious = platform.read32(window, register::SPURIOUS);
        platform.write32(window, register::SPURIOUS, spurious | ENABLE);
        Ok(Self(window))
    }

    /// The message that raises this vector on the processor that has the APIC id 0.
    pub const fn message(vector: u8) -> MsiMessage {
        MsiMessage { address: BASE, data: vector as u16 }
    }

    /// A vector that nothing was asked for with before, of the range that is nobody's.
    pub fn fresh_vector() -> u8 {
        static NEXT: AtomicU8 = AtomicU8::new(0x40);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this interrupt has come.
    pub fn has(&self, platform: &mut impl Registers, vector: u8) -> bool {
        let place = register::REQUESTED + usize::from(vector / 32) * 16;
        platform.read32(self.0, place) >> (vector % 32) & 1 == 1
    }
}
