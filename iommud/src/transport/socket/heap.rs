//! What the C library keeps of the memory that was freed.
//!
//! glibc gives back only what is free at the end of its heap, where most often something small is left. A million mappings take
//! some 150 MB, which would stay with this process when they are gone.

/// So much more must have become free that it is worth the time.
const WORTH_IT: usize = 8 << 20;

/// What is known of the heap.
#[derive(Debug, Default)]
pub struct Heap {
    /// How many bytes of it are free and the system's already, at the most.
    given: usize,
}

impl Heap {
    /// Gives what is free back to the system, if it is much. That takes milliseconds: not while a client waits.
    pub fn tidy(&mut self) {
        let free = free_bytes();
        self.given = self.given.min(free);
        if free - self.given >= WORTH_IT {
            give_back();
            self.given = free_bytes();
        }
    }
}

#[cfg(target_env = "gnu")]
fn free_bytes() -> usize {
    // SAFETY: it asks for nothing but that it is glibc's heap, and looks at that under its locks.
    unsafe { libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: as above. What is in use stays as it is.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Of other heaps nothing is known.
#[cfg(not(target_env = "gnu"))]
fn free_bytes() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::fs;
    use std::hint::black_box;

    use super::*;

    /// Pages of this process's own that are in memory.
    fn resident() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_freed_before_something_small_goes_back_to_the_system() {
        let mut heap = Heap::default();
        heap.tidy();
        let mut many: Vec<Box<[u8; 100]>> = Vec::new();
        many.extend((0..1_000_000).map(|_| black_box(Box::new([1; 100]))));
        let last = many.pop();
        let before = resident();
        drop(many);
        heap.tidy();
        let after = resident();
        assert!(after + 64_000 < before, "{before} KiB before and {after} after");
        drop(last);
    }
}
