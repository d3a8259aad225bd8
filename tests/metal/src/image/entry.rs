//! The way from the boot loader into Rust.
//!
//! QEMU's `-kernel` runs its firmware, then finds the entry by a note and jumps to it as the PVH boot
//! protocol says (Xen, `docs/misc/pvh.pandoc`, "x86/HVM direct boot ABI"): 32-bit protected mode, flat
//! segments, no paging, no stack, interrupts off, `ebx` the address of `hvm_start_info`. From there it is
//! a page table, four control bits and a far jump to long mode.
//!
//! The page table is data, built by the assembler. It maps the first 4 GiB to themselves, in pages of
//! 2 MiB that every processor has, except for the first 2 MiB: these are 4 KiB pages, so that two of them
//! need not be mapped, the one that the stack would grow into and, once the boot loader's words in it have
//! been read, page zero. That registers are mapped like
//! memory does no harm: the firmware's MTRRs make them uncached, and the emulator has no cache.

use core::arch::global_asm;

use metal::memory::layout::{STACK, STACK_GUARD};

global_asm!(
    r#"
    .set NOTE_PHYS32_ENTRY, 18

    .set PAGE_PRESENT, 1 << 0
    .set PAGE_WRITABLE, 1 << 1
    .set PAGE_LARGE, 1 << 7
    .set PAGE_TABLE, PAGE_PRESENT | PAGE_WRITABLE

    .set CR0_PROTECTION, 1 << 0
    .set CR0_MONITOR_COPROCESSOR, 1 << 1
    .set CR0_EMULATION, 1 << 2
    .set CR0_WRITE_PROTECT, 1 << 16
    .set CR0_PAGING, 1 << 31
    .set CR4_PAE, 1 << 5
    .set CR4_OSFXSR, 1 << 9
    .set CR4_OSXMMEXCPT, 1 << 10
    .set MSR_EFER, 0xc0000080
    .set EFER_LONG_MODE, 1 << 8

    .set CODE, 0x08
    .set DATA, 0x10

    .section .note.pvh, "a", @note
    .balign 4
    .long 4                             /* bytes of the name */
    .long 8                             /* bytes of the address */
    .long NOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, {stack_top}

    mov eax, offset boot_level_4
    mov cr3, eax
    mov eax, cr4
    or eax, CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_LONG_MODE
    wrmsr
    mov eax, cr0
    and eax, ~CR0_EMULATION
    or eax, CR0_PROTECTION | CR0_MONITOR_COPROCESSOR | CR0_WRITE_PROTECT | CR0_PAGING
    mov cr0, eax

    lgdt [boot_gdt_pointer]
    push CODE
    mov eax, offset long_mode
    push eax
    retf

    .code64
long_mode:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, {stack_top}                /* again, for the upper half of rsp */
    xor ebp, ebp                        /* the end of the chain of frames */
    mov edi, ebx
    call {start}
    ud2

    .section .data.boot, "aw", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* code: 64-bit, ring 0, present, accessed */
    .quad 0x00cf93000000ffff            /* data: flat, ring 0, writable, present, accessed */
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt

    .balign 4096
boot_level_4:
    .quad boot_level_3 + PAGE_TABLE
    .fill 511, 8, 0
boot_level_3:
    .quad boot_level_2 + PAGE_TABLE
    .quad boot_level_2 + 1 * 4096 + PAGE_TABLE
    .quad boot_level_2 + 2 * 4096 + PAGE_TABLE
    .quad boot_level_2 + 3 * 4096 + PAGE_TABLE
    .fill 508, 8, 0
boot_level_2:
    .quad boot_level_1 + PAGE_TABLE
    .set at, 2 << 20
    .rept 4 * 512 - 1
    .quad at + PAGE_PRESENT + PAGE_WRITABLE + PAGE_LARGE
    .set at, at + (2 << 20)
    .endr
boot_level_1:
    .set at, 0
    .rept 512
    .if at == {stack_guard}
    .quad 0
    .else
    .quad at + PAGE_PRESENT + PAGE_WRITABLE
    .endif
    .set at, at + 4096
    .endr
    .text
    "#,
    stack_top = const STACK.end().get(),
    stack_guard = const STACK_GUARD.get(),
    start = sym crate::start,
);
