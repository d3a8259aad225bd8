//! A machine without an IOMMU, on which nothing is confined, and nobody must believe that it is.

use agent::failure::Outcome;
use agent::programs::run;

pub(super) fn iommud_says_so() -> Outcome {
    run("iommud", &[])?.line("the firmware describes no IOMMU")?;
    Ok(())
}

pub(super) fn nobody_is_served() -> Outcome {
    let absent = run("iommuctl", &["devices"])?.expect(3)?;
    absent.line("iommuctl: iommud is not running at /scheme/iommu")?;
    run("iommuctl", &["plan"])?.line("iommud WOULD NOT START: the firmware describes no IOMMU")?;
    Ok(())
}
