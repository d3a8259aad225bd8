//! Serves.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iommu_service::Settings;
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::Error;
use super::inherited;
use super::keeper::{FEWER, raise_descriptor_limit, start_another};
use crate::daemon::hand_over::{HandOver, NotByKeeper, Start};
use crate::daemon::options::{Options, UnitKind};
use crate::daemon::policy::Told;
use crate::daemon::{bring_up, log};
use crate::platform::linux::Linux;
use crate::platform::linux::keeper::{self, Keeper};
use crate::platform::sim::SimPlatform;
use crate::transport::socket::{Host, Listener, Server};

/// How long the simulated device takes for a transfer: long enough for its driver to wait for it as it would
/// for hardware.
const TRANSFER_NANOS: u64 = 1_000_000;

/// Serves until it is told to end, in the process that the keeper started for it.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn serve(options: &Options, left: &HandOver) -> Result<(), Error> {
    let &[socket, listener] = &left.descriptors[..] else { return Err(NotByKeeper.into()) };
    let (socket, listener) = (inherited(socket)?, inherited(listener)?);
    let told = Told::by(options)?;
    let stop = stop()?;
    raise_descriptor_limit(FEWER);
    let (keeper, pieces) = Keeper::at(socket, another_keeper(&listener, left.start)?)?;
    let platform = Linux::open(keeper.clone(), pieces, left.start == Start::Hand)?;
    let settings = settings(options, left.start, &told);
    let mut service = bring_up::start(platform, settings).map_err(Error::Start)?;
    told.warn(&service);
    bring_up::settle(&mut service);
    bring_up::report(&service);
    keeper.report(bring_up::outcome(&service));
    // Units walk what it has, also when this process has ended: the keeper gives it back, when it ends.
    let mut server = ManuallyDrop::new(Server::new(service, Listener::lent(listener))?);
    log::line("ready");
    server.run(&stop)?;
    log::line("told to end");
    Ok(())
}

/// What starts another keeper when this process's is dead.
fn another_keeper(listener: &OwnedFd, start: Start) -> Result<keeper::Start, Error> {
    let listener = listener.try_clone()?;
    let mut last: Option<Child> = None;
    Ok(Box::new(move || {
        if let Some(mut last) = last.take() {
            // It is dead, or was not given everything.
            last.kill()?;
            last.wait()?;
        }
        let (socket, process) = start_another(listener.as_fd(), start)?;
        last = Some(process);
        Ok(socket)
    }))
}

/// Simulates a machine and serves until it is told to end.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn simulate(options: &Options, listener: Listener) -> Result<(), Error> {
    let told = Told::by(options)?;
    let stop = stop()?;
    raise_descriptor_limit(0);
    log::line("SIMULATED: this daemon confines nothing real");
    let platform = SimPlatform::new(machine(options.unit)).map_err(Error::Simulator)?;
    serve_simulated(platform, listener, settings(options, Start::Hand, &told), &told, &stop)
}

fn serve_simulated(
    platform: impl Host,
    listener: Listener,
    settings: Settings,
    told: &Told,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut service = bring_up::start(platform, settings).map_err(Error::Start)?;
    told.warn(&service);
    bring_up::settle(&mut service);
    bring_up::report(&service);
    let mut server = Server::new(service, listener)?;
    log::line("ready");
    server.run(stop)?;
    log::line("told to end");
    Ok(())
}

/// Set when this process is told to end.
fn stop() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// The machine that is simulated.
fn machine(unit: UnitKind) -> MachineConfig {
    let mut machine = match unit {
        UnitKind::Vtd => MachineConfig::default(),
        UnitKind::Amdvi => MachineConfig::with_amdvi(AmdviConfig::default()),
        UnitKind::None => MachineConfig::without_units(),
    };
    for edu in &mut machine.edus {
        edu.dma_nanos = TRANSFER_NANOS;
    }
    machine
}

fn settings(options: &Options, start: Start, told: &Told) -> Settings {
    let platform =
        if options.sim { "SIMULATED: confines nothing real" } else { "linux: a guest in QEMU" };
    let mut lines = vec![
        ("platform", platform.into()),
        ("iommud version", env!("CARGO_PKG_VERSION").into()),
        ("socket", options.socket().display().to_string()),
    ];
    lines.extend(start.settings());
    lines.extend(told.settings());
    Settings { lines, policy: told.policy.clone() }
}
