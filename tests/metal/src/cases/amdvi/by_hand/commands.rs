//! Commands.

use bitfield_struct::bitfield;
use dma_types::{PhysAddr, SourceId};

/// A command, in its quadwords.
pub type Command = [u64; 2];

/// COMPLETION_WAIT, the first quadword. The second one is the data to store.
#[bitfield(u64)]
struct CompletionWait {
    /// s: store.
    store: bool,
    /// i: interrupt.
    interrupt: bool,
    __: bool,
    /// Where to, in 8 bytes.
    #[bits(49)]
    words: u64,
    __: u8,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_DEVTAB_ENTRY, the first quadword. The second one is zero.
#[bitfield(u64)]
struct InvalidateDevice {
    device: u16,
    #[bits(44)]
    __: u64,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_IOMMU_PAGES.
#[bitfield(u128)]
struct InvalidatePages {
    __: u32,
    domain: u16,
    #[bits(12)]
    __: u16,
    #[bits(4)]
    opcode: u8,
    /// S: more than a page, as many as the address's low ones say.
    many: bool,
    /// PDE: the entries that lead to tables too.
    tables: bool,
    #[bits(10)]
    __: u16,
    #[bits(52)]
    page: u64,
}

/// INVALIDATE_IOMMU_ALL, the first quadword. The second one is zero.
#[bitfield(u64)]
struct InvalidateAll {
    #[bits(60)]
    __: u64,
    #[bits(4)]
    opcode: u8,
}

/// A wait for the commands before it: when they are done, `data` is stored at `place`.
pub fn completion_wait(place: PhysAddr, data: u64) -> Command {
    let wait = CompletionWait::new().with_store(true).with_words(place.get() >> 3).with_opcode(1);
    [wait.into_bits(), data]
}

/// Nothing but an interrupt.
pub fn interrupt() -> Command {
    [CompletionWait::new().with_interrupt(true).with_opcode(1).into_bits(), 0]
}

/// Forgets a device's entry.
pub fn forget_device(device: SourceId) -> Command {
    [InvalidateDevice::new().with_device(device.get()).with_opcode(2).into_bits(), 0]
}

/// Forgets what is translated at one page of a domain, or at all of them, ways to tables included.
pub fn forget_pages(domain: u16, page: Option<u64>) -> Command {
    let all = InvalidatePages::new().with_many(true).with_tables(true).with_page((1 << 51) - 1);
    let command = page.map_or(all, |page| InvalidatePages::new().with_page(page >> 12));
    let bits = command.with_domain(domain).with_opcode(3).into_bits();
    [bits as u64, (bits >> 64) as u64]
}

/// Forgets everything.
pub fn forget_all() -> Command {
    [InvalidateAll::new().with_opcode(8).into_bits(), 0]
}
