//! What operations take, in instructions. `tests/run bench` boots it and shows the figures beside Linux's.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `measure` | counting |
//! | `ending` | what undoing ends, as the device finds it |
//! | `addresses` | the allocator of I/O addresses, by itself |
//! | `engine` | the engine on QEMU's unit |
//! | `tables` | page tables alone |
//! | `streams` | streaming memory of libdma's, whose service is called directly |
//! | `memory` | coherent memory and pools of libdma's |

mod addresses;
mod ending;
mod engine;
mod measure;
mod memory;
mod streams;
mod tables;

use self::addresses::addresses_with_many_live;
use self::engine::{
    a_device_in_and_out_of_a_domain, a_domain_of_64_gib, mappings_with_a_device,
    mappings_with_many_live, mappings_without_a_device,
};
use self::measure::{Pairs, unchanged};
use self::memory::{coherent_memory, pools};
use self::streams::{bounced, lists, lists_anew, mixed_sizes, rings, streams, strict_batches};
use self::tables::page_tables_alone;
use crate::cases;
use crate::harness::{Context, Outcome, Suite};

/// The suite. Its last case wants a machine with more memory than others do.
pub const SUITE: Suite = Suite {
    name: "bench",
    cases: cases![
        nothing,
        streams,
        bounced,
        lists,
        lists_anew,
        rings,
        mixed_sizes,
        strict_batches,
        pools,
        coherent_memory,
        page_tables_alone,
        mappings_without_a_device,
        mappings_with_a_device,
        a_device_in_and_out_of_a_domain,
        a_domain_of_64_gib,
        addresses_with_many_live,
        mappings_with_many_live,
    ],
};

fn nothing(_: &mut Context) -> Outcome {
    Pairs::of((), unchanged, unchanged)?.tell("nothing");
    Ok(())
}
