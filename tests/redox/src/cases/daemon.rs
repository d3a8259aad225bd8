//! iommud itself, as the unit of init started it.

use agent::bench::faults;
use agent::failure::{Outcome, require};
use agent::programs::run;
use agent::reports;

use crate::machine::Machine;

pub(super) fn owns_the_iommu() -> Outcome {
    let machine = Machine::look()?;
    let units = reports::units()?;
    for unit in &units {
        require!(unit.state == "translating", "a unit {} is {}", unit.kind, unit.state);
    }
    let devices: usize = units.iter().map(|unit| unit.devices).sum();
    require!(devices > machine.edus.len(), "the units cover {devices} devices");
    for edu in &machine.edus {
        let device = reports::device(edu)?;
        require!(device.unit.is_some(), "no unit covers {edu}");
        require!(device.state == "free", "{edu} is {}", device.state);
    }
    Ok(())
}

pub(super) fn tells_how() -> Outcome {
    for (name, expected) in
        [("platform", "redox"), ("scheme", "/scheme/iommu"), ("started", "by init")]
    {
        let value = reports::setting(name)?;
        require!(value.starts_with(expected), "{name} is {value:?} and not {expected:?}");
    }
    let default = reports::setting("policy by default")?;
    require!(default == "deny", "by default, the policy is to {default}");
    Ok(())
}

/// Two of them on one IOMMU would undo each other's work: the device of the driver that is at work would be cut off.
pub(super) fn a_second_one_is_refused() -> Outcome {
    let bench = Machine::bench()?;
    let driver = bench.hold()?;
    let (mappings, blocked) = (reports::mappings()?, faults()?);
    let session = reports::device(&bench.device)?.generation;
    run("iommud", &[])?.expect(1)?.line("another iommud serves /scheme/iommu already")?;
    owns_the_iommu_still()?;
    require!(reports::mappings()? == mappings, "the driver's mappings have changed");
    let after = reports::device(&bench.device)?.generation;
    require!(after == session, "its session was {session:?} and is {after:?}");
    driver.kill()?;
    require!(faults()? == blocked, "the driver's device was blocked");
    bench.edud(&["--rounds", "1"])?.expect(0)?.line("intact")?;
    Ok(())
}

fn owns_the_iommu_still() -> Outcome {
    for unit in reports::units()? {
        require!(unit.state == "translating", "a unit {} is {}", unit.kind, unit.state);
    }
    Ok(())
}
