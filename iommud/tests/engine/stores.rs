//! What a thread stores in a piece of memory, store by store: after a chosen one it is as if it had died.
//!
//! The memory is write-protected. A store faults, is counted, and is then let through alone: by the processor's trap after one
//! instruction. Of the first that is not to be any more, and of all that come after it, nothing stays: what was there before is
//! kept, page by page, and put back when whoever watches gets to [look](Watch::is_over).
//!
//! Signals are a process's, and watches a thread's: tests run side by side.

use std::cell::{Cell, RefCell};
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use libc::{c_int, c_void, siginfo_t, ucontext_t};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// How many pages may be written to between a death and the next look.
const MOST_PAGES: usize = 64;

/// The flag by which the processor traps after the next instruction (Intel SDM volume 1, 3.4.3.3: TF).
const TRAP: libc::greg_t = 1 << 8;

thread_local! {
    /// The watch of this thread, while it is armed.
    static WATCH: Cell<*const Watch> = const { Cell::new(null()) };
}

/// Memory that is watched.
pub(crate) struct Watch {
    start: *const AtomicU64,
    pages: usize,
    /// How many events are left until the death, if there is to be one: stores and whatever else is [counted](Self::count).
    left: Cell<Option<u64>>,
    is_over: Cell<bool>,
    /// Whether there was a store since somebody asked.
    has_stored: Cell<bool>,
    /// The pages that were written to since: their numbers, and what was there before.
    kept: RefCell<Vec<(usize, [u64; WORDS])>>,
}

impl Watch {
    /// Watches these pages, nobody's store for now.
    ///
    /// # Safety
    ///
    /// The memory is mapped as long as the watch lives, is for reading and writing, starts with a page, and is reached as
    /// atomics alone.
    pub(crate) unsafe fn new(start: *const AtomicU64, pages: usize) -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| {
            handle(libc::SIGSEGV, on_fault);
            handle(libc::SIGTRAP, on_trap);
        });
        Self {
            start,
            pages,
            left: Cell::new(None),
            is_over: Cell::new(false),
            has_stored: Cell::new(false),
            kept: RefCell::new(Vec::with_capacity(MOST_PAGES)),
        }
    }

    /// Has this thread die at the event after so many others.
    pub(crate) fn arm(&self, left: u64) {
        self.left.set(Some(left));
        self.is_over.set(false);
    }

    /// Nobody dies any more.
    pub(crate) fn disarm(&self) {
        self.left.set(None);
    }

    /// Whether somebody is to die.
    pub(crate) fn is_armed(&self) -> bool {
        self.left.get().is_some()
    }

    /// From now on this thread's stores are events.
    pub(crate) fn close(&self) {
        if self.is_armed() {
            WATCH.set(self);
            self.protect(libc::PROT_READ);
        }
    }

    /// From now on they are not.
    pub(crate) fn open(&self) {
        if !WATCH.get().is_null() {
            self.protect(libc::PROT_READ | libc::PROT_WRITE);
            WATCH.set(null());
        }
    }

    /// Counts an event that is no store, or a store: whether it is the one of the death.
    pub(crate) fn count(&self) -> bool {
        match self.left.get() {
            Some(left) => {
                self.left.set(Some(left.saturating_sub(1)));
                left == 0
            }
            None => false,
        }
    }

    /// Whether there was a store since this was asked last.
    pub(crate) fn has_stored(&self) -> bool {
        self.has_stored.replace(false)
    }

    /// Whether the thread has died at a store. What it has stored since is gone then. The memory must be open.
    pub(crate) fn is_over(&self) -> bool {
        for (page, words) in self.kept.borrow_mut().drain(..) {
            for (index, word) in words.into_iter().enumerate() {
                self.word(page, index).store(word, Relaxed);
            }
        }
        self.is_over.replace(false)
    }

    fn word(&self, page: usize, index: usize) -> &AtomicU64 {
        assert!(page < self.pages && index < WORDS);
        // SAFETY: it is one of the words for which `new`'s caller has vouched.
        unsafe { &*self.start.add(page * WORDS + index) }
    }

    /// The page that an address is in.
    fn page_of(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.start.addr())?;
        (offset < self.pages * PAGE).then_some(offset / PAGE)
    }

    fn protect(&self, access: c_int) {
        self.protect_pages(0, self.pages, access);
    }

    fn protect_pages(&self, first: usize, count: usize, access: c_int) {
        let start = self.start.wrapping_add(first * WORDS).cast_mut().cast();
        // SAFETY: these are whole pages of a mapping that stays (`new`), which remain readable; who stores in them meanwhile is
        // let through by `on_fault`.
        let done = unsafe { libc::mprotect(start, count * PAGE, access) };
        assert_eq!(done, 0, "the memory cannot be protected");
    }

    /// A store to this page is about to be done: whether it is by itself.
    fn stores_to(&self, page: usize) -> bool {
        self.has_stored.set(true);
        if !self.is_over.get() && !self.count() {
            self.protect(libc::PROT_READ | libc::PROT_WRITE);
            return true;
        }
        self.is_over.set(true);
        let mut kept = self.kept.borrow_mut();
        assert!(kept.len() < MOST_PAGES, "nobody looks whether it is over");
        kept.push((page, std::array::from_fn(|index| self.word(page, index).load(Relaxed))));
        self.protect_pages(page, 1, libc::PROT_READ | libc::PROT_WRITE);
        false
    }
}

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

fn handle(signal: c_int, handler: Handler) {
    // SAFETY: a `sigaction` of zeroes is one; the handler is a function of the kind that SA_SIGINFO says.
    let done = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(signal, &action, null_mut())
    };
    assert_eq!(done, 0, "no handler");
}

/// This thread's watch.
fn watch<'a>() -> Option<&'a Watch> {
    // SAFETY: it is set by `close` and taken away by `open` before the watch can be dropped or moved: between the two its owner's
    // thread is in the code that is watched.
    unsafe { WATCH.get().as_ref() }
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both to a handler with SA_SIGINFO, for as long as that runs; of a fault there is an address.
    let (address, flags) = unsafe {
        let flags = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize];
        ((*info).si_addr().addr(), flags)
    };
    match watch().and_then(|watch| Some((watch, watch.page_of(address)?))) {
        Some((watch, page)) if watch.stores_to(page) => *flags |= TRAP,
        Some(_) => {}
        // Somebody else's, and as it would have been: the instruction faults again.
        None => {
            // SAFETY: it asks for what is so before anybody has asked for anything.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

extern "C" fn on_trap(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: as in `on_fault`.
    let flags =
        unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] };
    *flags &= !TRAP;
    if let Some(watch) = watch() {
        watch.protect(libc::PROT_READ);
    }
}
