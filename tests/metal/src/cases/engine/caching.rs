//! How the CPU caches a buffer: by the page table in use, whatever was answered.

use core::sync::atomic::{Ordering, fence};

use dma_types::{Access, CacheType};
use libdma::Attributes;

use super::blocking::expect;
use super::rig::with_service;
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::memory::paging::cache_type_at;
use crate::require;

/// What a CPU's page tables say of a buffer is what was asked for, and its device sees it whatever they say.
pub fn buffers_are_cached_as_they_were_asked_for(context: &mut Context) -> Outcome {
    // What means nothing on x86 changes nothing.
    let nothing =
        Attributes::NON_CONSISTENT | Attributes::WEAK_ORDERING | Attributes::WRITE_BARRIER;
    let asked = [
        (Attributes::empty(), CacheType::WriteBack),
        (nothing, CacheType::WriteBack),
        (Attributes::WRITE_COMBINE, CacheType::WriteCombining),
        (Attributes::WRITE_COMBINE | nothing, CacheType::WriteCombining),
        (Attributes::UNCACHED, CacheType::Uncached),
        (Attributes::UNCACHED | Attributes::FORCE_CONTIGUOUS, CacheType::Uncached),
        // At the same addresses again.
        (Attributes::FORCE_CONTIGUOUS, CacheType::WriteBack),
    ];
    with_service(context, |rig| {
        let device = rig.open()?;
        for (attributes, wanted) in asked {
            let buffer = device.buffer("cached so").access(Access::ReadWrite);
            let buffer = buffer.attributes(attributes).allocate(3 * 4096)?;
            let answered = buffer.cache_type();
            require!(answered == wanted, "{attributes:?} is answered with {answered}");
            for page in 0..3 {
                let address = buffer.cpu_address().checked_add(page * 4096).unwrap_or_default();
                let found = cache_type_at(address);
                require!(found == Some(wanted), "page {page} of {attributes:?} is {found:?}");
            }
            let iova = buffer.iova().unwrap_or_default().get();
            buffer.write(0, b"it is seen twice")?;
            fence(Ordering::SeqCst);
            rig.transfer(Direction::ToDevice, iova, 16)?;
            buffer.write(0, &[0; 16])?;
            fence(Ordering::SeqCst);
            rig.transfer(Direction::FromDevice, iova, 16)?;
            expect(&buffer, b"it is seen twice", "what came back")?;
        }
        // Small coherent memory, too, in windows of its own.
        let asked = [
            (Attributes::UNCACHED, CacheType::Uncached),
            (Attributes::WRITE_COMBINE, CacheType::WriteCombining),
            (Attributes::FORCE_CONTIGUOUS, CacheType::WriteBack),
            (Attributes::empty(), CacheType::WriteBack),
        ];
        for (attributes, wanted) in asked {
            let small = device.coherent("small").attributes(attributes).bytes(64)?;
            let found = cache_type_at(small.cpu_address());
            require!(found == Some(wanted), "small memory of {attributes:?} is {found:?}");
            small.copy_from(0, b"small and cached")?;
            fence(Ordering::SeqCst);
            rig.transfer(Direction::ToDevice, small.iova().get(), 16)?;
            small.copy_from(0, &[0; 16])?;
            fence(Ordering::SeqCst);
            rig.transfer(Direction::FromDevice, small.iova().get(), 16)?;
            let mut found = [0; 16];
            small.copy_to(0, &mut found)?;
            require!(&found == b"small and cached", "{found:x?} came to {attributes:?}");
        }
        rig.expect_no_fault()
    })
}
