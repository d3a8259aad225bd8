//! The image: what a program needs that has no standard library and no operating system below it.
#![no_std]
#![no_main]

extern crate alloc;

mod entry;
mod heap;
mod mem;

use core::panic::PanicInfo;

use talc::TalcLock;

/// The heap. Memory goes back to it, so that long tests can run.
#[global_allocator]
static ALLOCATOR: TalcLock<spin::Mutex<()>, heap::Memory> = TalcLock::new(heap::Memory::All);

/// Where the entry code leads, on the stack and in long mode. `start_info` is the address of what the
/// boot loader has to say.
extern "sysv64" fn start(start_info: u32) -> ! {
    // SAFETY: the entry code comes here once, with every address below 4 GiB mapped to itself.
    unsafe { metal::harness::main(start_info, &metal::cases::SUITES) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // The message is said in one line, the case's.
    match info.location() {
        Some(location) => {
            metal::harness::crash(format_args!("panic at {location}: {}", info.message()))
        }
        None => metal::harness::crash(format_args!("panic: {}", info.message())),
    }
}
