//! From the first instant, and from translation that was left on.

use core::ptr::NonNull;

use dma_types::{Access, Iova, PAGE_SIZE};
use iommu_engine::Engine;
use iommu_engine::engine::MapSpec;
use iommu_engine::fault::Tried;
use iommu_engine::platform::{BufferRuns, Platform};
use iommu_engine::policy::Policy;
use iommu_engine::unit::UnitState;

use super::blocking::{MARK, OTHER};
use super::canary::Canary;
use super::rig::{PATIENCE, Rig, switch_off, with_service};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome};
use crate::platform::Metal;
use crate::require;

pub(super) fn r1_the_unit_translates_and_denies_by_default(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let state = state(rig)?;
        require!(state == (UnitState::Running, false), "the unit is {state:?}");
        let on = rig.hardware().is_on(rig.service.lock().platform_mut());
        require!(on, "translation is off");
        // Page zero, the interrupt range's edge and memory itself.
        for address in [0, 0xfedf_f000, 0x10_0000] {
            rig.transfer(Direction::ToDevice, address, 16)?;
            rig.expect_fault(address, Tried::Read)?;
        }
        let canary = Canary::new(rig)?;
        rig.transfer(Direction::FromDevice, canary.address(), 16)?;
        rig.expect_fault(canary.address(), Tried::Write)?;
        canary.check()
    })
}

pub(super) fn r1_translation_that_was_left_on_is_taken_over(context: &mut Context) -> Outcome {
    context.lend(|mut platform| {
        let left = leave(&mut platform);
        let (mut platform, outcome) = match Rig::start(platform) {
            Ok(rig) => {
                let outcome = left.and_then(|left| take_over(&rig, left));
                (rig.stop(), outcome)
            }
            Err(refused) => {
                let (platform, failure) = *refused;
                (platform, Err(failure))
            }
        };
        let off = switch_off(&mut platform);
        (platform, outcome.and(off))
    })
}

/// What was mapped for the device before: its memory, at this address. The device holds [`OTHER`].
struct Left {
    iova: u64,
    memory: NonNull<[u8; 16]>,
}

/// Lets the device move data through a domain, and leaves everything on, as a boot loader that jumps to a
/// kernel may.
fn leave(platform: &mut Metal) -> Outcome<Left> {
    let edu = Edu::find(platform)?;
    let mut engine = Engine::start(platform, Policy::default())?;
    let start = platform.now();
    while engine.is_waiting() {
        engine.poll(platform);
        require!(platform.now().since(start) < PATIENCE, "the unit does not come up");
    }
    let domain = engine.create_domain(platform, &[edu.function()])?;
    engine.attach(platform, edu.function(), domain)?;
    let run = platform.alloc_run(PAGE_SIZE).ok_or(Failure("no run".into()))?;
    let memory = platform.run_pointer(run).ok_or(Failure("no pointer".into()))?.cast();
    // SAFETY: the run is ours, and nobody gives it back before the end of the case.
    unsafe { memory.write_volatile(OTHER) };
    let limit = Iova::new(u64::MAX);
    let access = Access::ReadWrite;
    let spec = MapSpec {
        run,
        offset: 0,
        bytes: PAGE_SIZE,
        access,
        align: PAGE_SIZE,
        first: Iova::new(0),
        limit,
        owner: 1,
    };
    let (iova, _) = engine.map(platform, domain, &spec)?;
    edu.transfer(platform, Direction::ToDevice, iova.get(), 16)?;
    let events = engine.take_events(platform);
    require!(events.is_empty(), "a transfer inside the domain is blocked: {events:?}");
    // SAFETY: as above.
    unsafe { memory.write_volatile(MARK) };
    Ok(Left { iova: iova.get(), memory })
}

/// Whether the unit was found translating and denies by default now.
fn take_over(rig: &Rig, left: Left) -> Outcome {
    let Left { iova, memory } = left;
    let state = state(rig)?;
    require!(state == (UnitState::Running, true), "the unit is {state:?}");
    rig.transfer(Direction::FromDevice, iova, 16)?;
    rig.expect_fault(iova, Tried::Write)?;
    // SAFETY: the run is the case's own, and no engine knows of it any more.
    let found = unsafe { memory.read_volatile() };
    require!(found == MARK, "what was mapped before is still reached");
    let device = rig.open()?;
    let buffer = device.allocate(4096, Some(Access::ReadWrite), "new")?;
    rig.load(&buffer, buffer.iova().unwrap_or_default(), b"moves with a new")?;
    rig.expect_no_fault()
}

fn state(rig: &Rig) -> Outcome<(UnitState, bool)> {
    let service = rig.service.lock();
    let slot = service.engine().units().first().ok_or(Failure("no unit".into()))?;
    let unit = slot.unit.as_ref().map_err(|refused| Failure(alloc::format!("{refused}")))?;
    Ok((unit.state(), unit.found_translating()))
}
