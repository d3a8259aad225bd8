//! How an operation is tried: with each of its requests failing in turn, in each way.

use std::mem;
use std::sync::{Mutex, MutexGuard};

use libdma::check::{self, Report};
use libdma::{Device, Error, WindowUsage};
use simulated::{Machine, Usage, second_edu};

/// What requests fail with.
const ERRORS: [Error; 8] = [
    Error::NoAddressSpace,
    Error::OutOfMemory,
    Error::QuotaExceeded,
    Error::SessionEnded,
    Error::BadHandle,
    Error::DaemonGone,
    Error::TimedOut,
    Error::UnitFailed,
];

/// Those that stand for too little being left, after which less is asked for, or again.
fn is_scarcity(error: Error) -> bool {
    matches!(error, Error::NoAddressSpace | Error::OutOfMemory | Error::QuotaExceeded)
}

static TURN: Mutex<()> = Mutex::new(());
static REPORTS: Mutex<Vec<Report>> = Mutex::new(Vec::new());

fn collect(report: &Report) {
    REPORTS.lock().unwrap().push(report.clone());
}

/// What is given out and open.
#[derive(Debug, PartialEq)]
struct Snapshot {
    usage: Usage,
    mappings: String,
    domains: String,
    handles: String,
    windows: Vec<WindowUsage>,
}

impl Snapshot {
    fn of(machine: &Machine, device: Option<&Device>) -> Self {
        let config = machine.text("config");
        let handles = config.lines().filter(|line| !line.starts_with("protocol"));
        Self {
            usage: machine.usage(),
            mappings: machine.text("mappings"),
            domains: machine.text("domains"),
            handles: handles.collect(),
            windows: device.map(Device::window_usage).unwrap_or_default(),
        }
    }
}

/// What is to be said of an operation beside what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It fails when a request does.
    Plain,
    /// The same, but what cannot be mapped the device may reach a copy of.
    Bounces,
    /// It cannot fail: it drops things, and what could not be asked for is made good by the end of the session.
    Drops,
}

/// Operations, tried on each machine.
pub(crate) struct Trials {
    machines: [Machine; 3],
    /// How many operations there were, requests of theirs, and requests that failed.
    operations: usize,
    steps: usize,
    failures: usize,
    /// One checker is in a process.
    _turn: MutexGuard<'static, ()>,
}

impl Trials {
    pub(crate) fn begin() -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        check::turn_off();
        check::turn_on();
        check::on_report(collect);
        REPORTS.lock().unwrap().clear();
        let machines = Machine::each();
        for machine in &machines {
            // Units' tables for buses are made once, and stay.
            drop((machine.open(), machine.open_at(second_edu()).unwrap()));
        }
        Self { machines, operations: 0, steps: 0, failures: 0, _turn: turn }
    }

    /// Tries an operation on each machine. `setup` makes what it is done with; `act` does it, and gives that back if it
    /// fails; `intact` looks whether it is as it was.
    pub(crate) fn all<S, T>(
        &mut self,
        name: &str,
        setup: impl Fn(&Machine, &Device) -> S,
        act: impl Fn(S) -> Result<T, (Error, S)>,
        intact: impl Fn(&Machine, &S),
    ) {
        for machine in 0..self.machines.len() {
            self.on(machine, (name, Kind::Plain), &setup, &act, &intact);
        }
    }

    /// The same for what the device may reach a copy of, if it cannot be mapped.
    pub(crate) fn bounces<S, T>(
        &mut self,
        name: &str,
        setup: impl Fn(&Machine, &Device) -> S,
        act: impl Fn(S) -> Result<T, (Error, S)>,
        intact: impl Fn(&Machine, &S),
    ) {
        for machine in 0..self.machines.len() {
            self.on(machine, (name, Kind::Bounces), &setup, &act, &intact);
        }
    }

    /// The same on those with an IOMMU.
    pub(crate) fn confined<S, T>(
        &mut self,
        name: &str,
        setup: impl Fn(&Machine, &Device) -> S,
        act: impl Fn(S) -> Result<T, (Error, S)>,
        intact: impl Fn(&Machine, &S),
    ) {
        for machine in 0..self.machines.len() - 1 {
            self.on(machine, (name, Kind::Plain), &setup, &act, &intact);
        }
    }

    /// Tries on each machine what cannot fail, since it drops things.
    pub(crate) fn drops<S>(&mut self, name: &str, setup: impl Fn(&Machine, &Device) -> S) {
        for machine in 0..self.machines.len() {
            self.on(machine, (name, Kind::Drops), &setup, &dropped, &anything);
        }
    }

    /// The same on those with an IOMMU.
    pub(crate) fn confined_drops<S>(&mut self, name: &str, setup: impl Fn(&Machine, &Device) -> S) {
        for machine in 0..self.machines.len() - 1 {
            self.on(machine, (name, Kind::Drops), &setup, &dropped, &anything);
        }
    }

    fn on<S, T>(
        &mut self,
        machine: usize,
        (name, kind): (&str, Kind),
        setup: &impl Fn(&Machine, &Device) -> S,
        act: &impl Fn(S) -> Result<T, (Error, S)>,
        intact: &impl Fn(&Machine, &S),
    ) {
        let on = ["VT-d", "AMD-Vi", "no IOMMU"][machine];
        let machine = &self.machines[machine];
        let trial = Trial { machine, kind, setup, act, intact };
        let steps = trial.good_run();
        assert!(steps > 0, "{name} on {on} asks iommud nothing");
        self.operations += 1;
        for step in 0..steps {
            self.steps += 1;
            for error in ERRORS {
                // Where less is asked for, or again, that fails, too; and a daemon that is gone stays so.
                let times: &[u64] = match error {
                    error if is_scarcity(error) => &[1, 2, u64::MAX],
                    Error::DaemonGone => &[1, u64::MAX],
                    _ => &[1],
                };
                for &times in times {
                    let what =
                        format!("{name} on {on}: request {step} of {steps}: {error:?} x{times}");
                    trial.refused(step, times, error, &what);
                    self.failures += 1;
                }
            }
            trial.lost(step, &format!("{name} on {on}: answer {step} of {steps} lost"));
            self.failures += 1;
        }
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        let Self { operations, steps, failures, .. } = self;
        println!("{operations} operations (three machines), {steps} requests, {failures} failures");
    }
}

/// An operation on a machine.
struct Trial<'a, Setup, Act, Intact> {
    machine: &'a Machine,
    kind: Kind,
    setup: &'a Setup,
    act: &'a Act,
    intact: &'a Intact,
}

impl<Setup, Act, Intact, S, T> Trial<'_, Setup, Act, Intact>
where
    Setup: Fn(&Machine, &Device) -> S,
    Act: Fn(S) -> Result<T, (Error, S)>,
    Intact: Fn(&Machine, &S),
{
    /// How many requests it is when none fails.
    fn good_run(&self) -> u64 {
        let before = Snapshot::of(self.machine, None);
        let device = self.machine.open();
        let state = (self.setup)(self.machine, &device);
        let asked = self.machine.client.requests();
        let done = (self.act)(state);
        let steps = self.machine.client.requests() - asked;
        assert!(done.is_ok());
        drop((done, device));
        self.over(&before, "a good run");
        steps
    }

    /// So many requests from one on fail.
    fn refused(&self, step: u64, times: u64, error: Error, what: &str) {
        let Self { machine, kind, setup, act, intact } = *self;
        let before_all = Snapshot::of(machine, None);
        let device = machine.open();
        machine.make_tables(&device);
        let state = setup(machine, &device);
        device.trim();
        let before = Snapshot::of(machine, Some(&device));
        machine.client.refuse(step, times, error);
        let result = act(state);
        machine.client.refuse_none();
        match result {
            Ok(done) => {
                let may = match kind {
                    Kind::Plain => is_scarcity(error) && times != u64::MAX,
                    Kind::Bounces => is_scarcity(error),
                    Kind::Drops => true,
                };
                assert!(may, "{what} went unnoticed");
                drop(done);
            }
            Err((answer, state)) => {
                assert_eq!(plainly(answer), error, "{what}");
                device.trim();
                // Where nothing confines devices, iommud has to be told that memory is used no more.
                if times == 1 || device.is_confined() {
                    let mut after = Snapshot::of(machine, Some(&device));
                    // A large page that was mapped in between takes the place of the table that the domain keeps.
                    let frames = &mut after.usage.live_frames;
                    *frames = before.usage.live_frames.max(*frames);
                    assert_eq!(after, before, "{what}");
                }
                intact(machine, &state);
                let again = act(state).map_err(|(error, _)| error);
                assert_eq!(again.as_ref().err(), None, "{what}, and again");
                drop(again);
            }
        }
        drop(device);
        self.over(&before_all, what);
    }

    /// A request is carried out, but from then on nothing is answered.
    fn lost(&self, step: u64, what: &str) {
        let before = Snapshot::of(self.machine, None);
        let device = self.machine.open();
        let state = (self.setup)(self.machine, &device);
        device.trim();
        self.machine.client.lose(step);
        let result = (self.act)(state);
        let error = result.as_ref().err().map(|(error, _)| *error);
        if self.kind != Kind::Drops {
            assert_eq!(error.map(plainly), Some(Error::DaemonGone), "{what}");
        }
        drop((result, device));
        self.machine.client.refuse_none();
        // What could not be unmapped the checker calls leaked, and rightly.
        REPORTS.lock().unwrap().clear();
        self.over(&before, what);
    }

    /// Everything is as it was before the device was opened.
    fn over(&self, before: &Snapshot, what: &str) {
        assert_eq!(Snapshot::of(self.machine, None), *before, "{what}, and the session's end");
        self.machine.check();
        let reports = mem::take(&mut *REPORTS.lock().unwrap());
        let reports: Vec<_> = reports.iter().map(ToString::to_string).collect();
        assert!(reports.is_empty(), "{what}: {reports:#?}");
    }
}

/// What was passed on has a word of its own for an iommud that is gone.
fn plainly(error: Error) -> Error {
    if error == Error::HandleLost { Error::DaemonGone } else { error }
}

/// Something that is done with what it only looks at, or changes in place.
pub(crate) fn with<S, T>(
    act: impl Fn(&mut S) -> Result<T, Error>,
) -> impl Fn(S) -> Result<(T, S), (Error, S)> {
    move |mut state| match act(&mut state) {
        Ok(done) => Ok((done, state)),
        Err(error) => Err((error, state)),
    }
}

/// Drops it.
fn dropped<S>(state: S) -> Result<(), (Error, S)> {
    drop(state);
    Ok(())
}

/// The device alone is what it is done with.
pub(crate) fn device(_: &Machine, device: &Device) -> Device {
    device.clone()
}

/// There is nothing to look at.
pub(crate) fn anything<S>(_: &Machine, _: &S) {}
