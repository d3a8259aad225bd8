//! Exceptions of the CPU: reported, and then the end, so that a crash is never a hang.

use core::arch::global_asm;
use core::mem::size_of;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::Cr2;
use x86_64::registers::segmentation::{CS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use super::exit::{Exit, exit};
use crate::harness;
use crate::memory::layout::TRAP_STACK;

/// The vectors that the CPU itself raises.
const VECTORS: usize = 32;
/// How far apart the entries below are, in bytes.
const ENTRY_BYTES: usize = 16;

// One entry a vector: each pushes its number, behind an error code where the CPU pushes none.
global_asm!(
    r#"
    .balign {entry_bytes}
    .global metal_trap_entries
metal_trap_entries:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign {entry_bytes}
    .if (({with_error_code} >> \vector) & 1) == 0
    push 0
    .endif
    push \vector
    jmp metal_trap
    .endr
metal_trap:
    cld
    mov rdi, rsp
    and rsp, -16
    call {report}
    ud2
    "#,
    entry_bytes = const ENTRY_BYTES,
    with_error_code = const WITH_ERROR_CODE,
    report = sym report,
);

/// Vectors that come with an error code (Intel SDM volume 3, table 7-1; 29 and 30 are AMD's).
const WITH_ERROR_CODE: u32 = 1 << 8
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 17
    | 1 << 21
    | 1 << 29
    | 1 << 30;

unsafe extern "C" {
    static metal_trap_entries: [[u8; ENTRY_BYTES]; VECTORS];
}

/// An entry of the interrupt descriptor table (Intel SDM volume 3, figure 7-8).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    /// Present, and an interrupt gate of 64 bits.
    const INTERRUPT: u8 = 1 << 7 | 0xe;

    /// The gate to `entry`, on the trap stack.
    fn new(entry: u64) -> Self {
        Self {
            offset_low: entry as u16,
            selector: CS::get_reg().0,
            // The task state counts its stacks from 1.
            stack: 1,
            attributes: Self::INTERRUPT,
            offset_middle: (entry >> 16) as u16,
            offset_high: (entry >> 32) as u32,
            reserved: 0,
        }
    }
}

/// Reports exceptions from now on.
pub fn report_exceptions() {
    static TASK: Once<TaskStateSegment> = Once::new();
    static SEGMENTS: Once<(GlobalDescriptorTable, SegmentSelector)> = Once::new();
    static GATES: Once<[Gate; VECTORS]> = Once::new();

    let task = TASK.call_once(|| {
        let mut task = TaskStateSegment::new();
        task.interrupt_stack_table[0] = VirtAddr::new(TRAP_STACK.end().get());
        task
    });
    let (segments, selector) = SEGMENTS.call_once(|| {
        let mut segments = GlobalDescriptorTable::new();
        // The first two as the entry code had them, so that the segments in use go on meaning the same.
        segments.append(Descriptor::kernel_code_segment());
        segments.append(Descriptor::kernel_data_segment());
        let selector = segments.append(Descriptor::tss_segment(task));
        (segments, selector)
    });
    segments.load();
    // SAFETY: the selector is that of the task state just loaded, whose stack is a real one.
    unsafe { load_tss(*selector) };

    let gates = GATES.call_once(|| {
        core::array::from_fn(|vector| {
            let entry = addr_of!(metal_trap_entries).cast::<[u8; ENTRY_BYTES]>();
            Gate::new(entry.wrapping_add(vector) as u64)
        })
    });
    let pointer = DescriptorTablePointer {
        limit: (size_of::<[Gate; VECTORS]>() - 1) as u16,
        base: VirtAddr::from_ptr(gates),
    };
    // SAFETY: the table lives as long as the machine, and its entries take every exception there is.
    unsafe { lidt(&pointer) };
}

/// What is on the stack when [`report`] is called.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

extern "sysv64" fn report(frame: &Frame) -> ! {
    static REPORTING: AtomicBool = AtomicBool::new(false);
    if REPORTING.swap(true, Ordering::Relaxed) {
        // An exception while one is reported, on the same stack: there is nothing left to say.
        exit(Exit::Crashed);
    }
    let Frame { vector, error, rip, rsp, .. } = *frame;
    let name = name(vector);
    let address = Cr2::read_raw();
    harness::crash(format_args!(
        "exception {vector} ({name}) at rip {rip:#x}, rsp {rsp:#x}, cr2 {address:#x}, error {error:#x}"
    ))
}

/// What a vector is called.
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point",
        _ => "unexpected",
    }
}
