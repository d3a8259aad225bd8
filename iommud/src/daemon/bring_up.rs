//! Starting, waiting for the units, and what became of each.

use core::time::Duration;
use std::thread;

use iommu_engine::engine::Confinement;
use iommu_engine::error::StartError;
use iommu_engine::machine::UnitSlot;
use iommu_engine::platform::Platform;
use iommu_engine::unit::UnitState;
use iommu_service::{Service, Settings};

use super::hand_over::{Report, STARTED};
use super::log;

/// How long to sleep between two looks at the units.
const PAUSE: Duration = Duration::from_micros(200);

/// Starts the service: with what a process before this one left, if one did and it can be adopted. The report says so.
///
/// # Errors
///
/// [`StartError`], if it has to begin anew and cannot.
pub fn start<P: Platform>(
    mut platform: P,
    mut settings: Settings,
) -> Result<Service<P>, StartError> {
    if platform.inherited() {
        let mut adopting = settings.clone();
        say_started(&mut adopting, "adopted from a predecessor");
        match Service::adopt(platform, adopting) {
            Ok(service) => {
                log::line("adopted from a predecessor: devices go on with what they reach");
                return Ok(service);
            }
            Err((error, back)) => {
                log::line(format_args!(
                    "what the one before left is not adopted, for {error}: devices reach nothing until they are opened anew"
                ));
                say_started(&mut settings, &format!("nothing adopted, for {error}"));
                platform = back;
            }
        }
    }
    Service::start(platform, settings).map_err(|(error, _)| error)
}

/// Adds to what the report says of how it came to be started.
fn say_started(settings: &mut Settings, how: &str) {
    let lines = settings.lines.iter_mut();
    for (_, value) in lines.filter(|(name, _)| *name == STARTED) {
        *value = format!("{value}: {how}");
    }
}

/// Brings every unit up, or to where it is given up: each step of it has its deadline, so that this ends.
/// Devices behind a unit that was given up cannot be opened.
pub fn settle<P: Platform>(service: &mut Service<P>) {
    while !service.engine().is_settled() {
        service.poll();
        if !service.engine().is_settled() {
            thread::sleep(PAUSE);
        }
    }
}

/// Writes a line for each unit, and for what was odd about the machine.
pub fn report<P: Platform>(service: &Service<P>) {
    let engine = service.engine();
    for (number, slot) in engine.units().iter().enumerate() {
        let (kind, base) = (slot.kind, slot.base);
        log::line(format_args!("unit {number} ({kind} at {base}): {}", state(slot)));
    }
    if !engine.has_iommu() {
        log::line("NO IOMMU: devices are NOT CONFINED, and drivers are served all the same");
    }
    for device in engine.devices().filter(|_| engine.has_iommu()) {
        let address = device.function.address;
        let confinement = engine.confinement(address);
        if confinement != Confinement::Confined && !device.is_infrastructure() {
            log::line(format_args!("NOT CONFINED: {address}: {confinement}"));
        }
    }
    for remark in engine.remarks() {
        log::line(remark);
    }
}

/// What the keeper is told of the units. Without any, what devices reach is nobody's to take from them.
pub fn outcome<P: Platform>(service: &Service<P>) -> Report {
    let mut units = service.engine().units().iter();
    let translates =
        |slot: &UnitSlot| matches!(&slot.unit, Ok(unit) if unit.state() == UnitState::Running);
    if units.len() > 0 && units.all(translates) { Report::AllTranslate } else { Report::SomeDoNot }
}

fn state(slot: &UnitSlot) -> String {
    match &slot.unit {
        Err(unusable) => format!("REFUSED: {unusable}"),
        Ok(unit) => match unit.state() {
            UnitState::Running => "translating".into(),
            UnitState::Starting(what) => format!("starting: to {what}"),
            UnitState::Failed(failure) => format!("FAILED: {failure}"),
        },
    }
}
