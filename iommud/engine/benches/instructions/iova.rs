//! Addresses alone.

use dma_types::Iova;
use iommu_engine::iova::{IovaAllocator, IovaRequest};

use crate::Operation;
use crate::counted::rounds;

pub(crate) const OPERATIONS: [Operation; 4] = [
    Operation { name: "IOVA: alloc + free, 1,000 live", per: 1, run: || warm(1_000) },
    Operation { name: "IOVA: alloc + free, 1,000,000 live", per: 1, run: || warm(1_000_000) },
    Operation {
        name: "IOVA: 512 allocs, then 512 frees, 1,000 live",
        per: 512,
        run: || deep(1_000),
    },
    Operation {
        name: "IOVA: 512 allocs, then 512 frees, 1,000,000 live",
        per: 512,
        run: || deep(1_000_000),
    },
];

const REQUEST: IovaRequest = IovaRequest::new(4096);

fn allocator(live: usize) -> IovaAllocator {
    let mut allocator = IovaAllocator::new(Iova::new((1 << 48) - 1));
    for _ in 0..live {
        allocator.alloc(REQUEST).expect("room");
    }
    allocator
}

/// One range, given out and back.
fn warm(live: usize) {
    let mut allocator = allocator(live);
    rounds(|counted| {
        counted(&mut || {
            let iova = allocator.alloc(REQUEST).expect("room");
            allocator.free(iova, REQUEST.bytes).expect("live");
        });
    });
}

/// More than a magazine holds.
fn deep(live: usize) {
    let mut allocator = allocator(live);
    let mut held = Vec::with_capacity(512);
    rounds(|counted| {
        counted(&mut || {
            held.extend((0..512).map(|_| allocator.alloc(REQUEST).expect("room")));
            for iova in held.drain(..) {
                allocator.free(iova, REQUEST.bytes).expect("live");
            }
        });
    });
}
