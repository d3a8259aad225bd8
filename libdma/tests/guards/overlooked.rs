//! A guard that nobody keeps dies at the end of the statement, and its address with it: the compiler warns of each.
//!
//! There is nothing to run: a warning that is expected and does not come is an error here.
#![deny(unfulfilled_lint_expectations)]

use libdma::stream::{Bounced, DeviceOwned, Gather, Synced, SyncedRange};
use libdma::*;

macro_rules! warned_of {
    ($($name:ident: $guard:ty;)*) => {
        $(
            #[expect(unused_must_use, reason = "that is what is tested")]
            #[allow(dead_code, reason = "it need not be run")]
            fn $name(make: fn() -> $guard) {
                make();
            }
        )*
    };
}

warned_of! {
    buffer: Buffer;
    unmapped_buffer: UnmappedBuffer;
    shared_buffer: SharedBuffer;
    attachment: Attachment;
    coherent: Coherent<u64>;
    coherent_slice: Coherent<[u64]>;
    pool_block: PoolBlock<u64>;
    stream: Stream<ToDevice>;
    stream_buffer: StreamBuffer<ToDevice>;
    mapped_stream_buffer: StreamBuffer<ToDevice, DeviceOwned>;
    synced_stream_buffer: StreamBuffer<FromDevice, Synced>;
    synced_range: SyncedRange<'static, FromDevice>;
    bounced: Bounced<'static, ToDevice>;
    scatter_list: ScatterList<'static, ToDevice>;
    mapped_scatter_list: ScatterList<'static, ToDevice, DeviceOwned>;
    gather: Gather<ToDevice>;
    raw_stream: RawStream;
    domain: Domain;
    entered: Entered;
    foreign_memory: ForeignMemory;
}
