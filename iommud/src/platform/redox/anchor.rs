//! What keeps a memory object when nobody has it any more.
//!
//! The units walk tables in it, and devices reach buffers in it, also when the keeper and the process that serves have
//! both been killed. The kernel then gives its memory to others, unless it is still somebody's: whoever has mapped some of
//! an address space keeps all of it (kernel 663e6641, `src/context/memory.rs`: `Grant::borrow` has a reference to the one
//! that it borrows from), and that may be an address space in which nobody runs. So two of them, each with a page of the
//! other, keep each other for as long as the machine runs. No later process has a way to them: the memory is lost then, and
//! nobody is given what a unit may still walk (rule R2).
//!
//! The keeper has both, and lets go of the object in the order in which that works: what keeps it first. The other way
//! round, the kernel would be in the midst of unmapping from an address space when it takes it again to
//! end the other (`AddrSpaceWrapper::munmap`, `AddrSpace::inner_drop`), and wait for itself.

use core::mem::ManuallyDrop;

use libredox::error::Result;

use super::area::{ANCHOR, ANCHOR_PAGE};
use super::object::MemoryObject;
use crate::daemon::log;

/// A memory object that outlives whoever has it, and ends when this is dropped.
pub struct AnchoredObject {
    object: MemoryObject,
    /// Of which it has a page, and which has one of it.
    anchor: Option<MemoryObject>,
}

/// What each of the two has of its own, for the other to map, and where it has what is the other's.
const OWN: usize = ANCHOR.start;
const OTHERS: usize = ANCHOR.start + ANCHOR_PAGE;

impl AnchoredObject {
    /// An object with nothing in it that is anybody's. Where the kernel does not let it be kept, it is one that ends with those
    /// who have it.
    ///
    /// # Errors
    ///
    /// There is no object at all.
    pub fn create() -> Result<Self> {
        let object = MemoryObject::create()?;
        let anchor = anchor(&object);
        if let Err(error) = &anchor {
            log::line(format_args!(
                "nothing keeps the memory that devices reach if iommud and its keeper are both killed: {error}"
            ));
        }
        Ok(Self { object, anchor: anchor.ok() })
    }

    /// The object.
    pub fn object(&self) -> &MemoryObject {
        &self.object
    }
}

impl Drop for AnchoredObject {
    fn drop(&mut self) {
        if let Some(anchor) = self.anchor.take() {
            // What is not let go of is kept for good, and harms nobody.
            let anchor = ManuallyDrop::new(anchor);
            if anchor.remove(OTHERS, ANCHOR_PAGE).is_ok()
                && self.object.remove(OTHERS, ANCHOR_PAGE).is_ok()
            {
                drop(ManuallyDrop::into_inner(anchor));
            }
        }
    }
}

/// An object that keeps this one, and is kept by it.
fn anchor(object: &MemoryObject) -> Result<MemoryObject> {
    let anchor = MemoryObject::create()?;
    for one in [object, &anchor] {
        one.add_zeroes(OWN, ANCHOR_PAGE)?;
    }
    // Should the second fail, the anchor ends with the object, of which it has nothing.
    object.borrow_page(OTHERS, &anchor, OWN)?;
    anchor.borrow_page(OTHERS, object, OWN)?;
    Ok(anchor)
}
