//! The interrupt by which units say that they have recorded faults.
//!
//! What the kernel does (`scheme/irq.rs`, 663e6641): number N of a processor is its vector N + 32, taken by making the
//! file `/scheme/irq/cpu-XX/N` and free again when that is closed. A read gives how many interrupts have come since
//! the kernel started, or nothing if that was acknowledged already; writing the number acknowledges it, unless more
//! have come. Reads never wait: an event queue tells of each interrupt. The kernel itself ends it at the processor.
//!
//! When the daemon dies, units go on sending their message until the next daemon takes them over. Whoever has been given
//! the vector meanwhile is woken for nothing then, as those are who share a line.

use dma_types::PhysAddr;
use iommu_engine::platform::MsiMessage;

/// Messages to this address and what follows it interrupt a processor (Intel SDM volume 3, "Message Address Register
/// Format"; AMD's processors have the same).
const MESSAGES: u64 = 0xfee0_0000;

/// Where in the address the processor's APIC id is, 8 bits of it.
const DESTINATION_SHIFT: u32 = 12;

/// The vector of the kernel's interrupt 0.
const FIRST_VECTOR: u8 = 32;

/// The message that raises the kernel's interrupt of this number on the processor with this APIC id, as one that has
/// an edge and is for this vector alone. `None` if no message reaches it.
pub fn message(apic_id: u64, number: u8) -> Option<MsiMessage> {
    // The highest is everybody's.
    let destination = u8::try_from(apic_id).ok().filter(|id| *id != u8::MAX)?;
    let address = PhysAddr::new(MESSAGES | u64::from(destination) << DESTINATION_SHIFT);
    Some(MsiMessage { address, data: FIRST_VECTOR.checked_add(number)?.into() })
}

#[cfg(target_os = "redox")]
pub use redox::FaultInterrupt;

#[cfg(target_os = "redox")]
mod redox {
    use std::fs::read_dir;

    use iommu_engine::platform::MsiMessage;
    use libredox::Fd;
    use libredox::errno::EEXIST;
    use libredox::error::Result;
    use libredox::flag::{O_CLOEXEC, O_CREAT, O_RDONLY, O_RDWR};

    /// Tells of the processor that started the system, which base's drivers (`pcid`'s `irq_helpers`) have all of
    /// their interrupts on. The kernel counts it as processor 0, and its number is taken for its APIC id.
    const BOOT_PROCESSOR: &str = "/scheme/irq/bsp";

    /// A vector that is ours.
    pub struct FaultInterrupt {
        vector: Fd,
        message: MsiMessage,
        /// How many the kernel had counted when they were last acknowledged.
        acknowledged: usize,
    }

    impl FaultInterrupt {
        /// Takes a vector of the processor that started the system. `None` if there is none.
        ///
        /// # Errors
        ///
        /// Those of the irq scheme: without uid 0 there is no vector.
        pub fn take() -> Result<Option<Self>> {
            let mut processor = [0; 8];
            // It writes four of them, or eight, and says eight.
            Fd::open(BOOT_PROCESSOR, O_RDONLY | O_CLOEXEC, 0)?.read(&mut processor)?;
            let processor = u64::from_le_bytes(processor);
            let folder = format!("/scheme/irq/cpu-{processor:02x}");
            let Ok(files) = read_dir(&folder) else { return Ok(None) };
            let numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok());
            for number in numbers {
                let Some(message) = super::message(processor, number) else { continue };
                match Fd::open(&format!("{folder}/{number}"), O_RDWR | O_CREAT | O_CLOEXEC, 0) {
                    Ok(vector) => return Self::fresh(vector, message).map(Some),
                    // Somebody else took it just now.
                    Err(error) if error.errno() == EEXIST => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(None)
        }

        /// A vector of which nothing has come: what the kernel has counted so far was somebody else's.
        fn fresh(vector: Fd, message: MsiMessage) -> Result<Self> {
            let mut fresh = Self { vector, message, acknowledged: 0 };
            if let Some(count) = fresh.count()? {
                fresh.acknowledge(count)?;
            }
            Ok(fresh)
        }

        /// The message that raises it.
        pub fn message(&self) -> MsiMessage {
            self.message
        }

        /// The descriptor that becomes readable when it comes.
        pub fn descriptor(&self) -> usize {
            self.vector.raw()
        }

        /// The count of those that have come, if it is not the one that was acknowledged last.
        ///
        /// # Errors
        ///
        /// Those of the irq scheme.
        pub fn count(&self) -> Result<Option<usize>> {
            let mut count = [0; size_of::<usize>()];
            let length = self.vector.read(&mut count)?;
            Ok((length == count.len()).then(|| usize::from_ne_bytes(count)))
        }

        /// Says that what this count stands for has been dealt with; how many that were. If more have come since, the
        /// queue tells of them.
        ///
        /// # Errors
        ///
        /// Those of the irq scheme.
        pub fn acknowledge(&mut self, count: usize) -> Result<u64> {
            self.vector.write(&count.to_ne_bytes())?;
            let new = count.wrapping_sub(self.acknowledged);
            self.acknowledged = count;
            Ok(new as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_processor_in_its_address_and_the_vector_in_its_data() {
        let of =
            |id, number| message(id, number).map(|message| (message.address.get(), message.data));
        assert_eq!(of(0, 16), Some((0xfee0_0000, 0x30)));
        assert_eq!(of(0x1b, 223), Some((0xfee1_b000, 0xff)));
        assert_eq!([of(0xff, 16), of(0x100, 16), of(0, 224)], [None; 3]);
    }
}
