//! What requests to iommud take that map and unmap memory of the driver's own, and how long their messages are: what is
//! to be compared with them is as long, and does nothing.

use dma_types::Access;
use libdma::protocol::call::{BatchHeader, Hello, MapEntry, Opcode, UnmapEntry, Welcome};
use libdma::{Device, Error, ForeignMemory, MapRequest};

use crate::failure::{Failure, Outcome};
use crate::measure::pairs;

/// How many mappings are made at a time.
pub const BATCHES: [usize; 2] = [1, 32];

/// How long each is.
const PIECE: usize = 64 << 10;

/// How long what is asked is, and its answer: to map, and to unmap.
pub const fn lengths(batch: usize) -> [usize; 2] {
    [
        size_of::<BatchHeader>() + batch * size_of::<MapEntry>(),
        size_of::<BatchHeader>() + batch * size_of::<UnmapEntry>(),
    ]
}

/// How long the shortest request and its answer are.
pub const SHORTEST: usize = size_of::<Hello>();

/// Counts for this device, whose driver this process is, and tells each figure when it is there.
///
/// The memory is registered once, and mapped piece by piece.
///
/// # Errors
///
/// Those of libdma.
pub fn measure(device: &Device, mut tell: impl FnMut(String)) -> Outcome {
    let greet = || device.handle().call::<Welcome>(Opcode::Hello, &Hello::new());
    tell(pairs("request/hello", greet, |_| Ok::<_, Failure>(()))?);
    let [.., most] = BATCHES;
    let memory = ForeignMemory::new(most * PIECE)?;
    let buffer = device.register(memory, None, "bench").map_err(Error::from)?;
    for batch in BATCHES {
        let piece = |index| MapRequest {
            buffer: &buffer,
            offset: (index * PIECE) as u64,
            bytes: PIECE as u64,
            access: Access::ReadWrite,
        };
        let pieces: Vec<_> = (0..batch).map(piece).collect();
        let undo = |mapped: Vec<_>| device.unmap(&mapped);
        tell(pairs(&format!("request/{batch}"), || device.map(&pieces), undo)?);
    }
    Ok(())
}
