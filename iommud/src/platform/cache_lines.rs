//! Writing cache lines back to memory, for units that do not snoop the processors' caches.

use core::arch::x86_64::{_mm_clflush, _mm_mfence};
use core::sync::atomic::AtomicU64;

/// Bytes of a cache line on every x86 processor that has an IOMMU; CPUID.1:EBX says the same.
const CACHE_LINE: usize = 64;

/// Writes the cache lines that hold these words back to memory. Ordered after the stores before it and
/// before the stores after it.
pub fn write_back(words: &[AtomicU64]) {
    // SAFETY: fences and flushes are in SSE2, which every x86-64 processor has, and change no memory.
    unsafe { _mm_mfence() };
    for line in words.chunks(CACHE_LINE / size_of::<u64>()) {
        // The first and the last word of each, because a chunk may straddle two lines.
        for word in line.first().into_iter().chain(line.last()) {
            // SAFETY: as above; the address is that of a live word.
            unsafe { _mm_clflush(core::ptr::from_ref(word).cast()) };
        }
    }
    // SAFETY: as above.
    unsafe { _mm_mfence() };
}
