//! The window in which the pages of a buffer, scattered in memory, follow one another for the CPU.
//!
//! Every buffer has a page behind it that is not mapped, so that running over its end faults.

use alloc::alloc::{alloc_zeroed, handle_alloc_error};
use core::alloc::Layout;
use core::arch::x86_64::{_mm_clflush, _mm_mfence};
use core::ptr::NonNull;

use dma_types::{CacheType, CpuAddr, PAGE_SIZE, PhysAddr};
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::{MapToError, MappedFrame, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr as Physical, VirtAddr};

use super::cache;
use super::layout::{WINDOW_BYTES, WINDOW_START};
use super::pages::{From, Pages};

/// The smallest line that a processor flushes.
const CACHE_LINE: usize = 64;

/// The window. There is one: it changes the page table in use.
#[derive(Debug)]
pub struct Window {
    pages: Pages,
}

/// A range of the window with pages in it.
#[derive(Debug)]
pub struct View {
    first: usize,
    count: usize,
}

impl View {
    /// Where the CPU sees it.
    pub fn pointer(&self) -> NonNull<u8> {
        let address = page_at(self.first).start_address().as_mut_ptr();
        // The window does not start at zero.
        NonNull::new(address).unwrap_or(NonNull::dangling())
    }

    /// How much the CPU sees, in bytes.
    pub fn bytes(&self) -> usize {
        self.count * PAGE_SIZE as usize
    }
}

impl Window {
    /// The window, empty.
    ///
    /// # Safety
    ///
    /// There is no other, and the page table in use maps the heap to itself.
    pub unsafe fn new() -> Self {
        // SAFETY: pages have neither PWT nor PCD, or both, and on this machine nobody else is.
        unsafe { cache::set_up() };
        Self { pages: Pages::new((WINDOW_BYTES / PAGE_SIZE) as usize) }
    }

    /// Has the CPU cache a view's pages in this way. The same memory is mapped to itself as well, write-back: nobody
    /// reaches for it there while a view is otherwise.
    pub fn set_cache_type(&mut self, view: &View, cache: CacheType) {
        let memory = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        for page in (view.first..view.first + view.count).map(page_at) {
            let line = page.start_address().as_ptr::<u8>();
            for offset in (0..PAGE_SIZE as usize).step_by(CACHE_LINE) {
                // SAFETY: the page is mapped, and what is in the cache goes to memory and stays as it is.
                unsafe { _mm_clflush(line.add(offset)) };
            }
            // SAFETY: what the page maps stays the same.
            match unsafe { self.table().update_flags(page, memory | cache::flags(cache)) } {
                Ok(change) => change.flush(),
                Err(error) => panic!("the window's page table is broken: {error:?}"),
            }
        }
        // SAFETY: it only orders what comes before.
        unsafe { _mm_mfence() };
    }

    /// Maps these pages one behind the other, or gives `None` when the window is full.
    pub fn map(&mut self, frames: &[PhysAddr]) -> Option<View> {
        let count = frames.len();
        let first = self.pages.take(count + 1, 1, From::Bottom)?;
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        for (page, frame) in (first..).map(page_at).zip(frames) {
            let frame = PhysFrame::containing_address(Physical::new(frame.get()));
            // SAFETY: the page is in the window and was free, so that nobody's view of memory changes.
            match unsafe { self.table().map_to(page, frame, flags, &mut Tables) } {
                Ok(change) => change.flush(),
                Err(MapToError::FrameAllocationFailed) => {
                    unreachable!("the heap panics when it is full")
                }
                Err(error) => panic!("the window's page table is broken: {error:?}"),
            }
        }
        Some(View { first, count })
    }

    /// Takes a view's pages out of the window.
    pub fn unmap(&mut self, view: View) {
        let View { first, count } = view;
        for page in (first..first + count).map(page_at) {
            match self.table().unmap(page) {
                Ok((_, change)) => change.flush(),
                Err(error) => panic!("the window's page table is broken: {error:?}"),
            }
        }
        self.pages.give_back(first..first + count + 1);
    }

    /// Where in physical memory what the CPU sees here is, if anything is.
    pub fn translate(&mut self, address: NonNull<u8>) -> Option<PhysAddr> {
        let address = VirtAddr::from_ptr(address.as_ptr());
        self.table().translate_addr(address).map(|found| PhysAddr::new(found.as_u64()))
    }

    fn table(&mut self) -> OffsetPageTable<'_> {
        // SAFETY: there is one window, borrowed here, and nobody else changes the table.
        unsafe { table() }
    }
}

/// How the CPU caches what is at an address, by the entry of its 4 KiB page; `None` where there is none.
pub fn cache_type_at(address: CpuAddr) -> Option<CacheType> {
    // SAFETY: there is one thread, and it changes nothing while this looks.
    match unsafe { table() }.translate(VirtAddr::new(address.get())) {
        TranslateResult::Mapped { frame: MappedFrame::Size4KiB(_), flags, .. } => {
            cache::chosen(flags)
        }
        _ => None,
    }
}

/// Takes page zero away, so that a null pointer faults.
///
/// # Safety
///
/// Nobody needs what is in it, and there is no [`Window`] yet.
pub unsafe fn unmap_page_zero() {
    // SAFETY: as the caller says.
    let unmapped = unsafe { table().unmap(Page::<Size4KiB>::containing_address(VirtAddr::zero())) };
    match unmapped {
        Ok((_, change)) => change.flush(),
        Err(error) => panic!("page zero is not mapped by itself: {error:?}"),
    }
}

/// The page table in use.
///
/// # Safety
///
/// Nobody else changes it meanwhile. It lies where memory is mapped to itself.
unsafe fn table() -> OffsetPageTable<'static> {
    let (frame, _) = Cr3::read();
    let root = frame.start_address().as_u64() as *mut PageTable;
    // SAFETY: as the caller says.
    unsafe { OffsetPageTable::new(&mut *root, VirtAddr::zero()) }
}

fn page_at(index: usize) -> Page<Size4KiB> {
    Page::containing_address(VirtAddr::new(WINDOW_START + index as u64 * PAGE_SIZE))
}

/// Page tables from the heap, where they stay: the window's size bounds their number.
struct Tables;

// SAFETY: every frame is the heap's and given out once.
unsafe impl FrameAllocator<Size4KiB> for Tables {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let layout = Layout::new::<PageTable>();
        // SAFETY: a page table is not of zero size.
        let table = unsafe { alloc_zeroed(layout) };
        if table.is_null() {
            handle_alloc_error(layout);
        }
        Some(PhysFrame::containing_address(Physical::new(table as u64)))
    }
}
