//! A unit whose registers read as anything, which stops, or never says that it is done, at any time: it is given up, or does
//! what it is asked, and the other unit's devices live on. An input is good if the unit was given up.

use std::time::Duration;

use dma_types::PciAddress;
use fuzz::{Chance, Steps, Trial};
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::Engine;
use iommu_engine::platform::{BufferRuns, ConfigSpace};
use iommu_engine::policy::Policy;
use iommu_engine::unit::UnitState;
use iommu_sim::machine::{Confirms, Lie};
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;

use crate::vendor::{Vendor, slow_down};
use crate::world::{PAGE, devices};

both! {
    r1_r2_r5_registers_may_read_as_anything_and_other_units_live,
}

/// Registers that the engine reads.
fn registers(vendor: Vendor) -> &'static [u64] {
    match vendor {
        Vendor::Vtd => &[
            0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x60, 0x68, 0x78, 0x80, 0x88,
            0x90, 0x98, 0xa0, 0xf0, 0xf8, 0x220, 0x228, 0x230, 0x238, 0x298,
        ],
        Vendor::Amdvi => &[
            0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x100, 0x2000, 0x2008, 0x2010, 0x2018, 0x2020,
        ],
    }
}

fn lie(chance: &mut Chance, vendor: Vendor) -> Lie {
    let bits = |chance: &mut Chance| match chance.below(4) {
        0 => 0,
        1 => 1 << chance.below(64),
        2 => chance.next(),
        _ => chance.long(),
    };
    Lie {
        unit: 0,
        register: (!chance.once_in(12)).then(|| chance.one_of(registers(vendor))),
        after: if chance.once_in(2) { 0 } else { chance.below(40) as u64 },
        times: if chance.once_in(2) { u64::MAX } else { 1 + chance.below(20) as u64 },
        clear: if chance.once_in(3) { u64::MAX } else { bits(chance) },
        set: bits(chance),
    }
}

/// Something else than its registers is wrong with the unit, or is right again.
fn spoil(chance: &mut Chance, platform: &SimPlatform) {
    let machine = &mut platform.machine_mut();
    match chance.below(3) {
        0 => {
            // A number that nobody asked for yet, or long ago.
            let far = Confirms::Off(chance.one_of(&[1 << 20, 1 << 40, u64::MAX << 20]));
            let says = [Confirms::Rightly, Confirms::Twice, Confirms::Never, far];
            machine.set_confirms(0, chance.one_of(&says));
        }
        _ => {
            let late = Takes::After(chance.one_of(&[1_000, 900_000_000, 1_100_000_000]));
            let takes = [Takes::Immediate, Takes::Immediate, late, Takes::Never];
            slow_down(machine, chance.one_of(&takes));
        }
    }
}

struct Hardware {
    platform: SimPlatform,
    engine: Engine,
    asked: Vec<Completion>,
    domain: Option<DomainKey>,
    mapped: Vec<(u64, u64)>,
}

impl Hardware {
    fn pass(&mut self, time: Duration) {
        self.platform.advance_time(time);
        self.engine.poll(&mut self.platform);
        self.engine.take_events(&mut self.platform);
    }

    /// Something is asked of the unit that lies.
    fn ask(&mut self, chance: &mut Chance, device: PciAddress) {
        let Self { platform, engine, asked, domain, mapped } = self;
        match (chance.below(8), *domain) {
            (0, Some(key)) => {
                asked.extend(engine.detach(platform, device));
                if engine.destroy_domain(platform, key).is_ok() {
                    *domain = None;
                    mapped.clear();
                }
            }
            (1 | 2, Some(key)) => {
                if let Some((iova, bytes)) = mapped.pop() {
                    asked.extend(engine.unmap(platform, key, dma_types::Iova::new(iova), bytes));
                }
            }
            (_, Some(key)) => {
                let bytes = PAGE << chance.below(2);
                let Some(run) = platform.alloc_run(bytes) else { return };
                let spec = iommu_engine::engine::MapSpec {
                    run,
                    offset: 0,
                    bytes,
                    access: dma_types::Access::ReadWrite,
                    align: PAGE,
                    first: dma_types::Iova::new(0),
                    limit: dma_types::Iova::new(u64::MAX),
                    owner: 1,
                };
                if let Ok((iova, completion)) = engine.map(platform, key, &spec) {
                    asked.push(completion);
                    mapped.push((iova.get(), bytes));
                }
            }
            (_, None) => {
                if let Ok(key) = engine.create_domain(platform, &[device]) {
                    asked.extend(engine.attach(platform, device, key));
                    *domain = Some(key);
                }
            }
        }
        platform.config_write(device, 4, 6);
        let at = self.mapped.first().map_or(PAGE, |it| it.0) + chance.below(4) as u64 * PAGE;
        let _ = self.platform.machine_mut().dma_write(device, at, &[1; 8]);
    }
}

fn attempt(vendor: Vendor, steps: Steps<'_>) -> bool {
    let mut platform = SimPlatform::with_manual_clock(vendor.two_units()).unwrap();
    let [well, lying] = devices();
    for device in [well, lying] {
        platform.config_write(device, 4, 6);
    }
    let mut steps = steps.peekable();
    if let Some(chance) = steps.peek_mut()
        && chance.once_in(3)
    {
        // It lies from the start.
        platform.machine_mut().lie(lie(chance, vendor));
    }
    let engine = Engine::start(&mut platform, Policy::default()).unwrap();
    let mut hardware =
        Hardware { platform, engine, asked: Vec::new(), domain: None, mapped: Vec::new() };
    for _ in 0..40 {
        hardware.pass(Duration::from_millis(if hardware.engine.is_settled() { 0 } else { 100 }));
    }
    assert!(hardware.engine.is_settled(), "it starts for good");
    let state = |hardware: &Hardware, unit: usize| {
        hardware.engine.units()[unit].unit.as_ref().map(|it| it.state()).ok()
    };
    assert_eq!(state(&hardware, 1), Some(UnitState::Running));
    let was_up = state(&hardware, 0) == Some(UnitState::Running)
        && hardware.platform.machine().is_translating(0);
    for mut chance in steps {
        if chance.once_in(10) {
            hardware.platform.machine_mut().lie(lie(&mut chance, vendor));
        }
        if chance.once_in(30) {
            spoil(&mut chance, &hardware.platform);
        }
        hardware.ask(&mut chance, lying);
        if chance.once_in(3) {
            let time = chance.one_of(&[0, 1, 1, 300, 1100]);
            hardware.pass(Duration::from_millis(time));
        }
        let usage = hardware.platform.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "R2");
        if was_up {
            assert!(
                hardware.platform.machine().is_translating(0),
                "R1: translation was turned off"
            );
        }
    }
    for _ in 0..40 {
        hardware.pass(Duration::from_millis(100));
    }
    let failed = !matches!(state(&hardware, 0), Some(UnitState::Running));
    for completion in &hardware.asked {
        let progress = hardware.engine.progress(completion);
        assert!(progress != iommu_engine::completion::Progress::Pending, "waits for good");
    }
    // The other lives on.
    let Hardware { platform, engine, .. } = &mut hardware;
    let key = engine.create_domain(platform, &[well]).unwrap();
    engine.attach(platform, well, key).unwrap();
    let run = platform.alloc_run(PAGE).unwrap();
    let spec = iommu_engine::engine::MapSpec {
        run,
        offset: 0,
        bytes: PAGE,
        access: dma_types::Access::ReadWrite,
        align: PAGE,
        first: dma_types::Iova::new(0),
        limit: dma_types::Iova::new(u64::MAX),
        owner: 2,
    };
    let (iova, _) = engine.map(platform, key, &spec).unwrap();
    assert_eq!(platform.machine_mut().dma_write(well, iova.get(), &[1; 8]), Ok(()));
    engine.unmap(platform, key, iova, PAGE).unwrap();
    assert!(platform.machine_mut().dma_write(well, iova.get(), &[1; 8]).is_err());
    failed
}

fn r1_r2_r5_registers_may_read_as_anything_and_other_units_live(vendor: Vendor) {
    // An AMD unit's device table takes a while to fill.
    let steps = if vendor == Vendor::Vtd { 4800 } else { 2400 };
    let trial = Trial { name: "hardware", steps, each: 120 };
    trial.run(|steps| attempt(vendor, steps));
}
