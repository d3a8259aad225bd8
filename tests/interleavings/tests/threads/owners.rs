//! Who has which memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use libdma::Iova;
use loom::cell::UnsafeCell;

/// A cell for each address at which there is a block.
#[derive(Default)]
pub(crate) struct Owners(Mutex<BTreeMap<u64, Arc<Cell>>>);

struct Cell(UnsafeCell<u32>);

// SAFETY: loom, which watches it, ends the test if two threads have it at a time.
unsafe impl Send for Cell {}
// SAFETY: as above.
unsafe impl Sync for Cell {}

impl Owners {
    /// Uses the memory there, which is this thread's alone.
    pub(crate) fn touch(&self, iova: Iova) {
        let cell = {
            let mut all = self.0.lock().unwrap();
            all.entry(iova.get()).or_insert_with(|| Arc::new(Cell(UnsafeCell::new(0)))).clone()
        };
        // SAFETY: the block is this thread's, and whoever had it before has given it back; loom looks whether that is so.
        cell.0.with_mut(|value| unsafe { *value += 1 });
    }
}
