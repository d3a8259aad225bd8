//! The functions that compiled code calls for blocks of memory, which a C library has elsewhere.
//!
//! They are string instructions: those cannot become calls to these functions again, as a loop in Rust
//! might, and the emulator runs them at a good pace.

use core::arch::asm;

/// Copies `bytes` bytes that do not overlap.
///
/// # Safety
///
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both blocks, and the words and the rest cover just these.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// Copies `bytes` bytes that may overlap.
///
/// # Safety
///
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= bytes {
        // SAFETY: going up never reaches a byte of `from` that is yet to be read.
        return unsafe { memcpy(to, from, bytes) };
    }
    // SAFETY: the caller vouches for both blocks. Going down reads each byte before it is written over,
    // and the direction flag is put back.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") bytes => _,
            inout("rdi") to.wrapping_add(bytes).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(bytes).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

/// Fills `bytes` bytes with the low byte of `value`.
///
/// # Safety
///
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // The byte eight times over; an array of it would be filled by this function.
    let word = u64::from(value as u8) * (u64::MAX / u64::from(u8::MAX));
    // SAFETY: the caller vouches for the block, and the words and the rest cover just that.
    unsafe {
        asm!(
            "rep stosq",
            "mov rcx, {rest}",
            "rep stosb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rdi") to => _,
            in("rax") word,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// Compares `bytes` bytes: negative, zero or positive as the first that differ.
///
/// # Safety
///
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    for at in 0..bytes {
        // SAFETY: the caller vouches for both blocks. Volatile, so that this loop stays a loop.
        let (l, r) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if l != r {
            return i32::from(l) - i32::from(r);
        }
    }
    0
}

/// Compares `bytes` bytes: zero if they are equal.
///
/// # Safety
///
/// As BSD's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: as the caller's.
    unsafe { memcmp(left, right, bytes) }
}
