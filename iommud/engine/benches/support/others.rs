//! Page tables of published crates, as a user of each would build one on the heap. Their tables are processors', and do
//! not say what a unit must be told.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use aarch64_paging::descriptor::{Descriptor, El1Attributes, PhysicalAddress};
use aarch64_paging::idmap::IdTranslation;
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, RootTable, VaRange};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize, PagingHandler};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags,
    PhysFrame, Size4KiB, Translate,
};

const PAGE: u64 = 4096;

/// A frame of zeroes on the heap, at its own address.
fn frame() -> u64 {
    let layout = Layout::from_size_align(PAGE as usize, PAGE as usize).expect("a layout");
    // SAFETY: the layout is not empty.
    unsafe { alloc_zeroed(layout) as u64 }
}

/// Gives one back.
///
/// # Safety
///
/// It is one, and nobody reaches it any more.
unsafe fn free(frame: u64) {
    let layout = Layout::from_size_align(PAGE as usize, PAGE as usize).expect("a layout");
    // SAFETY: as the caller says.
    unsafe { dealloc(frame as *mut u8, layout) };
}

/// Where the tables that are always there have a page: the last of each of 16.
fn last_pages(place: u64) -> impl Iterator<Item = u64> {
    (0..16).map(move |number| place + (number << 21) + 511 * PAGE)
}

/// The pages of as many tables as there are 512 in `pages`, but the last of each.
fn pages_from(place: u64, pages: usize) -> impl Iterator<Item = u64> {
    let parts = pages.div_ceil(512) as u64;
    let of_part = move |part| {
        let start = place + (part << 21);
        (0..pages.min(511) as u64).map(move |page| start + page * PAGE)
    };
    (0..parts).flat_map(of_part)
}

/// `x86_64`'s.
pub(crate) struct OffsetTable(OffsetPageTable<'static>);

struct Heap;

// SAFETY: each frame is a new one.
unsafe impl FrameAllocator<Size4KiB> for Heap {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame())))
    }
}

impl FrameDeallocator<Size4KiB> for Heap {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        // SAFETY: as the caller says.
        unsafe { free(frame.start_address().as_u64()) };
    }
}

impl OffsetTable {
    pub(crate) fn new(place: u64) -> Self {
        // SAFETY: the root lives as long as the program, and frames are at their own addresses.
        let root = unsafe { &mut *(frame() as *mut PageTable) };
        // SAFETY: as above.
        let mut table = Self(unsafe { OffsetPageTable::new(root, x86_64::VirtAddr::new(0)) });
        last_pages(place).for_each(|page| table.enter(page, 0));
        table
    }

    fn enter(&mut self, at: u64, memory: u64) {
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        let page = Page::<Size4KiB>::containing_address(x86_64::VirtAddr::new(at));
        let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(memory));
        // SAFETY: no processor walks this table.
        let mapped = unsafe { self.0.map_to(page, frame, flags, &mut Heap) };
        mapped.expect("room").ignore();
    }

    pub(crate) fn map(&mut self, place: u64, memory: u64, pages: usize) {
        for (number, page) in pages_from(place, pages).enumerate() {
            self.enter(page, memory + number as u64 * PAGE);
        }
    }

    pub(crate) fn unmap(&mut self, place: u64, pages: usize) {
        for page in pages_from(place, pages) {
            let page = Page::<Size4KiB>::containing_address(x86_64::VirtAddr::new(page));
            self.0.unmap(page).expect("mapped").1.ignore();
        }
    }

    pub(crate) fn translate(&self, address: u64) -> u64 {
        let found = self.0.translate_addr(x86_64::VirtAddr::new(address));
        found.map_or(0, x86_64::PhysAddr::as_u64)
    }
}

/// `page_table_multiarch`'s.
pub(crate) struct Multiarch(X64PageTable<Heap>);

impl PagingHandler for Heap {
    fn alloc_frames(num: usize, _align: usize) -> Option<memory_addr::PhysAddr> {
        assert_eq!(num, 1);
        Some((frame() as usize).into())
    }

    fn dealloc_frames(paddr: memory_addr::PhysAddr, _num: usize) {
        // SAFETY: the table gives back what it was given.
        unsafe { free(paddr.as_usize() as u64) };
    }

    fn phys_to_virt(paddr: memory_addr::PhysAddr) -> memory_addr::VirtAddr {
        paddr.as_usize().into()
    }
}

impl Multiarch {
    pub(crate) fn new(place: u64) -> Self {
        let mut table = X64PageTable::try_new().expect("a frame");
        for page in last_pages(place) {
            let (page, memory) = ((page as usize).into(), 0.into());
            let flags = MappingFlags::READ | MappingFlags::WRITE;
            table.cursor().map(page, memory, PageSize::Size4K, flags).expect("room");
        }
        Self(table)
    }

    pub(crate) fn map(&mut self, place: u64, memory: u64, pages: usize) {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let bytes = pages.min(511) * PAGE as usize;
        for part in 0..pages.div_ceil(512) {
            let start = place as usize + (part << 21);
            let to = |at: memory_addr::VirtAddr| (at.as_usize() - start + memory as usize).into();
            self.0.cursor().map_region(start.into(), to, bytes, flags, false).expect("room");
        }
    }

    pub(crate) fn unmap(&mut self, place: u64, pages: usize) {
        let bytes = pages.min(511) * PAGE as usize;
        for part in 0..pages.div_ceil(512) {
            let start = place as usize + (part << 21);
            self.0.cursor().unmap_region(start.into(), bytes).expect("mapped");
        }
    }

    pub(crate) fn translate(&self, address: u64) -> u64 {
        let found = self.0.query((address as usize).into());
        found.map_or(0, |(to, ..)| to.as_usize() as u64)
    }
}

/// `aarch64_paging`'s, which maps over what is mapped without a word.
pub(crate) struct Aarch64(RootTable<El1And0, IdTranslation<El1Attributes>>);

impl Aarch64 {
    pub(crate) fn new(place: u64) -> Self {
        let root = RootTable::with_va_range(IdTranslation::new(), 0, El1And0, VaRange::Lower);
        let mut table = Self(root);
        last_pages(place).for_each(|page| table.enter(page, 0, PAGE, Self::mapped()));
        table
    }

    fn mapped() -> El1Attributes {
        El1Attributes::VALID | El1Attributes::ACCESSED
    }

    fn enter(&mut self, at: u64, memory: u64, bytes: u64, attributes: El1Attributes) {
        let range = MemoryRegion::new(at as usize, (at + bytes) as usize);
        let small = Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT;
        let memory = PhysicalAddress(memory as usize);
        self.0.map_range(&range, memory, attributes, small).expect("room");
    }

    pub(crate) fn map(&mut self, place: u64, memory: u64, pages: usize) {
        let bytes = pages.min(511) as u64 * PAGE;
        for part in 0..pages.div_ceil(512) as u64 {
            self.enter(place + (part << 21), memory, bytes, Self::mapped());
        }
    }

    pub(crate) fn unmap(&mut self, place: u64, pages: usize) {
        let bytes = pages.min(511) as u64 * PAGE;
        for part in 0..pages.div_ceil(512) as u64 {
            self.enter(place + (part << 21), 0, bytes, El1Attributes::empty());
        }
    }

    pub(crate) fn translate(&self, address: u64) -> u64 {
        let mut found = 0;
        let page = MemoryRegion::new(address as usize, (address + PAGE) as usize);
        let mut note = |_: &MemoryRegion, entry: &Descriptor<_>, _| {
            found = entry.output_address().0 as u64;
            Ok(())
        };
        self.0.walk_range(&page, &mut note).expect("a range");
        found
    }
}
