//! Who may have a device, and for how long.

use rustix::process::{Pid, Signal, kill_process};

use crate::addresses;
use crate::devices;
use crate::domains;
use crate::failure::{Failure, Outcome, require};
use crate::programs::{Program, run, run_as_nobody, start_iommud, wait_until};
use crate::reports;
use crate::revoking;
use crate::sharing;
use crate::traces::Traces;

pub(super) fn a_second_opener_is_refused() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let name = devices::edu()?.name();
    let mut holder = Program::start("edud", &["--device", &name, "--hold"])?;
    holder.wait_line("holding")?;
    let mappings = reports::mappings()?;
    let second = run("edud", &["--device", &name])?.expect(1)?;
    let refusal = format!("edud: cannot open {name} at iommud: another driver holds this device");
    require!(second.lines == [refusal], "it said {:?}", second.lines);
    require!(reports::mappings()? == mappings, "the holder's mappings have changed");
    require!(reports::device(&name)?.handles == 1, "there are more handles than the holder's");
    holder.kill()?;
    run("edud", &["--device", &name, "--rounds", "1"])?.expect(0)?;
    before.wait_for_return()
}

pub(super) fn more_than_a_buffer_is_refused() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    devices::bench()?.more_than_a_buffer_is_refused()?;
    before.wait_for_return()
}

pub(super) fn a_passed_handle_works() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let name = devices::edu()?.name();
    devices::bench()?.a_passed_handle_works(&["edud"])?;
    // Its exit code comes through.
    run("edud", &["--device", &name, "--pass-to", "sh", "-c", "exit 7"])?.expect(7)?;
    before.wait_for_return()
}

pub(super) fn a_passed_handle_outlives() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let name = devices::edu()?.name();
    // It lets go of the pipe by which the first is waited for.
    let script = "echo child $$; exec edud --hold >/dev/null 2>&1";
    let mut first = Program::start("edud", &["--device", &name, "--pass-to", "sh", "-c", script])?;
    let child = first.wait_line("child ")?;
    let child = child.trim_start_matches("child ").parse().ok().and_then(Pid::from_raw);
    let child = child.ok_or_else(|| Failure("the child has no id".into()))?;
    wait_until("the child has its buffers", || Ok(reports::mappings()?.len() == 2))?;
    let (device, mappings) = (reports::device(&name)?, reports::mappings()?);
    require!(device.handles == 1, "there are {} handles to the device", device.handles);
    first.kill()?;
    let after = reports::device(&name)?;
    require!(after.generation == device.generation, "the session is another");
    require!(reports::mappings()? == mappings, "the mappings have changed");
    run("edud", &["--device", &name])?.expect(1)?.line("another driver holds this device")?;
    kill_process(child, Signal::KILL)?;
    wait_until("the device is free", || Ok(reports::device(&name)?.state == "free"))?;
    before.wait_for_return()
}

pub(super) fn a_shared_buffer() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    sharing::first()?;
    before.wait_for_return()
}

pub(super) fn r3_addresses() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    addresses::are_refused_by_another_device()?;
    before.wait_for_return()
}

pub(super) fn a_shared_domain() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    domains::first()?;
    before.wait_for_return()
}

pub(super) fn a_revoked_handle() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    revoking::drivers_are_cut_off()?;
    before.wait_for_return()
}

pub(super) fn only_root_opens_devices() -> Outcome {
    let _iommud = start_iommud()?;
    let name = devices::edu()?.name();
    let edud = run_as_nobody("edud", &["--device", &name])?.expect(1)?;
    let refusal = format!(
        "edud: cannot open {name} at iommud: the handle or the caller does not have the right to do \
         this"
    );
    require!(edud.lines == [refusal], "it said {:?}", edud.lines);
    require!(reports::device(&name)?.state == "free", "the device is not free");
    let mappings = run_as_nobody("iommuctl", &["mappings"])?.expect(1)?;
    mappings.line("(only root may see this)")?;
    run_as_nobody("iommuctl", &["--json", "mappings"])?.expect(1)?;
    run_as_nobody("iommuctl", &["faults"])?.expect(0)?;
    Ok(())
}
