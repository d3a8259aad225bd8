//! Waiting for the units, and what became of each.

use core::time::Duration;
use std::thread;

use iommu_engine::engine::Confinement;
use iommu_engine::machine::UnitSlot;
use iommu_engine::platform::Platform;
use iommu_engine::unit::UnitState;
use iommu_service::Service;

use super::hand_over::Report;
use super::log;

/// How long to sleep between two looks at the units.
const PAUSE: Duration = Duration::from_micros(200);

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
