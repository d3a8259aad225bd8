//! How the CPU caches a page: the page attribute table (Intel SDM volume 3, 12.12; AMD APM volume 2, 7.8).
//!
//! Three bits of a page's entry choose one of eight types. After reset the second, which PWT alone chooses, is
//! write-through, for which nobody has a use. Here it is write-combining, as on Linux.

use dma_types::CacheType;
use x86_64::registers::model_specific::Msr;
use x86_64::structures::paging::PageTableFlags;

/// The register: eight types of one byte each.
const IA32_PAT: u32 = 0x277;

/// The types' numbers (Intel SDM volume 3, table 12-10; AMD APM volume 2, table 7-9).
const UNCACHEABLE: u8 = 0;
const WRITE_COMBINING: u8 = 1;
const WRITE_BACK: u8 = 6;

/// The type that PWT alone chooses.
const BY_PWT: usize = 1;

/// The bit of a 4 KiB page's entry that chooses among the upper four types: where those of larger pages say that
/// they are large.
const PAT: PageTableFlags = PageTableFlags::HUGE_PAGE;

/// Makes write-combining the type that PWT alone chooses.
///
/// # Safety
///
/// No page that is in use has PWT alone, and this is the bare machine.
pub unsafe fn set_up() {
    let mut types = types();
    types[BY_PWT] = WRITE_COMBINING;
    // SAFETY: the register is there on every processor with long mode, and the types are those that it knows. As the caller
    // says, no page's type changes.
    unsafe { Msr::new(IA32_PAT).write(u64::from_le_bytes(types)) };
}

/// The bits of a page's entry that choose a type.
pub const fn flags(cache: CacheType) -> PageTableFlags {
    match cache {
        CacheType::WriteBack => PageTableFlags::empty(),
        CacheType::WriteCombining => PageTableFlags::WRITE_THROUGH,
        CacheType::Uncached => PageTableFlags::NO_CACHE.union(PageTableFlags::WRITE_THROUGH),
    }
}

/// The type that a 4 KiB page's entry chooses, by the register as it is; `None` for one that nobody asks for.
pub fn chosen(entry: PageTableFlags) -> Option<CacheType> {
    let bits = [PageTableFlags::WRITE_THROUGH, PageTableFlags::NO_CACHE, PAT];
    let index =
        (0..).zip(bits).map(|(at, bit)| usize::from(entry.contains(bit)) << at).sum::<usize>();
    match types()[index] {
        UNCACHEABLE => Some(CacheType::Uncached),
        WRITE_COMBINING => Some(CacheType::WriteCombining),
        WRITE_BACK => Some(CacheType::WriteBack),
        _ => None,
    }
}

fn types() -> [u8; 8] {
    // SAFETY: reading it changes nothing.
    unsafe { Msr::new(IA32_PAT).read() }.to_le_bytes()
}
