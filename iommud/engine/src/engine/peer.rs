//! Registers of one device in the address space of another.

use dma_types::{Access, Iova, PAGE_SIZE, PciAddress, PhysAddr};

use super::Engine;
use super::units::has_failed;
use crate::completion::Completion;
use crate::domain::{DomainKey, Mapping, Owner};
use crate::error::EngineError;
use crate::iova::{INTERRUPT_RANGE, IovaRequest};
use crate::pci::{self, bar};
use crate::platform::{Platform, Segment};
use crate::segments;
use crate::unit::{Changed, Touched};

/// A part of a device's BAR that a client wants mapped for another.
#[derive(Clone, Copy, Debug)]
pub struct PeerBarSpec {
    /// Where they are: what [`Engine::registers`] gave.
    pub registers: Segment,
    /// What the device may do.
    pub access: Access,
    /// What the I/O address must be a multiple of: a power of two, at least 4096.
    pub align: u64,
    /// The lowest I/O address that the mapping may touch.
    pub first: Iova,
    /// The highest I/O address that the mapping may touch.
    pub limit: Iova,
    /// The client's number for it, which no buffer has.
    pub owner: u64,
}

impl Engine {
    /// Where a part of a device's registers is: `bytes` bytes from `offset` on in this BAR, whole pages.
    ///
    /// A part is given only where all that is known of the BAR agrees: the platform tells its place and length from
    /// the operating system's records, the function's configuration has it in that place and switched on, it is a page at
    /// least, and nothing else lies there: no memory, no unit's registers, no other function's BAR and no addresses that
    /// raise interrupts. A driver can move its device's BARs about; none gets at something else by that.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotRegisters`], and [`EngineError::OutOfRun`] for what reaches beyond the BAR's end.
    pub fn registers(
        &self,
        platform: &mut impl Platform,
        device: PciAddress,
        number: u8,
        offset: u64,
        bytes: u64,
    ) -> Result<Segment, EngineError> {
        let no = EngineError::NotRegisters(device, number);
        if !self.devices.contains_key(&device) {
            return Err(EngineError::NoSuchDevice(device));
        }
        let known = platform.bar(device, number).filter(|bar| {
            pci::bar::memory_bar(platform, device, number) == Some(bar.start)
                && is_whole_pages(*bar)
        });
        let whole = known.ok_or(no)?;
        let end = offset.checked_add(bytes).ok_or(EngineError::OutOfRun)?;
        if end > whole.bytes {
            return Err(EngineError::OutOfRun);
        }
        let mut others = platform.arenas();
        others.extend(
            self.units
                .iter()
                .map(|slot| Segment { start: slot.base.page(), bytes: slot.register_bytes }),
        );
        others.push(Segment {
            start: PhysAddr::new(INTERRUPT_RANGE.start.get()),
            bytes: INTERRUPT_RANGE.bytes,
        });
        for function in self.devices.keys() {
            let bars = (0..bar::BARS).filter(|bar| (*function, *bar) != (device, number));
            others.extend(bars.filter_map(|bar| platform.bar(*function, bar)));
        }
        let part = Segment { start: whole.start.checked_add(offset).ok_or(no)?, bytes };
        if segments::overlap(&others, &[whole]) || platform.is_memory(part) {
            return Err(no);
        }
        Ok(part)
    }

    /// Maps a part of another device's BAR in a domain, at a free I/O address. From the completion on at the latest, its devices
    /// reach it. [`unmap`](Self::unmap) takes it away as it does buffers.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    pub fn map_registers(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        spec: &PeerBarSpec,
    ) -> Result<(Iova, Completion), EngineError> {
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.memberships().any(|(unit, _)| has_failed(&self.units, unit)) {
            return Err(EngineError::UnitFailed);
        }
        if self.is_taking_over {
            // Units may hold something of before at any address that is free.
            return Err(EngineError::NotForgotten);
        }
        let given_up = self.make_way(platform, key, spec.registers.bytes);
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let PeerBarSpec { registers, access, align, first, limit, owner } = *spec;
        let bytes = registers.bytes;
        let request = IovaRequest { bytes, align, first, limit };
        let payer = self.books.purse.payer;
        let mapping = Mapping { bytes, access, owner: Owner::Buffer(owner), offset: 0, payer };
        let root = domain.root();
        let mut frames = self.books.meter(platform, 0);
        let mapped = domain.map(&mut frames, &[registers], request, mapping);
        let mapped = self.books.paid(domain, frames.bill, bytes, mapped);
        self.follow_arenas(platform);
        let (iova, touched) = mapped?;
        // Of the tables that it may have taken.
        let mut kept = self.keeping.completion(&[], touched == Touched::Tables);
        kept.join(&given_up);
        let range = Changed { start: iova, bytes, touched };
        Ok((iova, self.mapped(platform, key, root, range, kept)?))
    }
}

/// Whether a BAR is whole pages, which no other device's share (rule R8), and ends within the address space.
fn is_whole_pages(bar: Segment) -> bool {
    let page = |it: u64| it.is_multiple_of(PAGE_SIZE);
    bar.bytes != 0
        && page(bar.bytes)
        && page(bar.start.get())
        && bar.start.get().checked_add(bar.bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: u64, bytes: u64) -> Segment {
        Segment { start: PhysAddr::new(start), bytes }
    }

    #[test]
    fn r8_only_whole_pages_are_mapped_for_a_peer() {
        assert!(is_whole_pages(segment(0xfea0_0000, 0x1000)));
        for (start, bytes) in
            [(0xfea0_0000, 0), (0xfea0_0000, 256), (0xfea0_0080, 0x1000), (!0xfff, 0x1000)]
        {
            assert!(!is_whole_pages(segment(start, bytes)), "{start:#x} {bytes:#x}");
        }
    }
}
