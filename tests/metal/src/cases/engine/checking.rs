//! The checker, where there is no standard library: what a driver and its device do wrong is named.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use iommu_engine::fault::Tried;
use libdma::pool::NotTaken;
use libdma::{FromDevice, check};
use spin::Mutex;

use super::rig::{Rig, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::require;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether one thing was said since this was last asked, with all of these words in it.
fn said(words: &[&str]) -> Outcome {
    let said = mem::take(&mut *SAID.lock());
    let [sentence] = &said[..] else {
        return Err(Failure(format!("the checker says {said:?}")));
    };
    let missing = words.iter().find(|word| !sentence.contains(**word));
    require!(missing.is_none(), "the checker says: {sentence}");
    Ok(())
}

pub(in crate::cases) fn the_checker_names_what_is_wrong(context: &mut Context) -> Outcome {
    check::turn_on();
    check::on_report(|report| SAID.lock().push(report.to_string()));
    SAID.lock().clear();
    let outcome = with_service(context, misuse);
    check::turn_off();
    outcome
}

fn misuse(rig: &Rig) -> Outcome {
    let device = rig.open()?;
    let pool = device.pool("descriptors").bytes(64)?;
    let block = pool.alloc_zeroed()?;
    rig.transfer(Direction::ToDevice, block.iova().get(), 64)?;
    let address = block.into_iova();
    let freed = pool.free(address).and_then(|()| pool.free(address));
    require!(freed == Err(NotTaken::Free), "freed twice: {freed:?}");
    said(&["double free on", "the block of pool \"descriptors\" (64 bytes at", "checking.rs:"])?;

    // The device does not know that the block is free.
    rig.transfer(Direction::FromDevice, address.get(), 16)?;
    let again = pool.alloc()?;
    require!(again.iova() == address, "it is another block");
    said(&["write after free on", "byte 0 is 0x00"])?;
    drop(again);

    if rig.hardware().tells_what_it_blocks() {
        let stream = device.stream::<FromDevice>("rx").strict();
        let mapped = stream.buffer(4096)?.map()?;
        let address = mapped.iova().get();
        let _buffer = mapped.unmap()?;
        rig.transfer(Direction::FromDevice, address, 16)?;
        rig.expect_fault(address, Tried::Write)?;
        let faults = device.faults()?.faults.len();
        require!(faults == 1, "the driver is told of {faults} faults");
        said(&["fault explained", "of the stream \"rx\" (4096 bytes", "which was given back at"])?;
    }
    let lives = check::leaks();
    require!(lives == 0, "the checker says: {:?}", SAID.lock());
    Ok(())
}
