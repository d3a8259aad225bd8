//! What process 1 does: mount, prepare, run the cases or a shell, power off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use agent::case::{Verdict, opening};
use agent::run::Spec;
use agent::tally::Tally;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::system::{RebootCommand, reboot};

use crate::failure::{Failure, Outcome};
use crate::{bench, devices};

/// The serial line that the rig reads. The first one is Linux's console.
const VERDICTS: &str = "/dev/ttyS1";

const MOUNTS: [(&str, &str); 5] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// Runs these cases and powers off.
pub(crate) fn cases(cases: &[Spec]) -> ExitCode {
    let done = prepare().and_then(|()| {
        let mut verdicts = OpenOptions::new().write(true).open(VERDICTS)?;
        let mut tally = Tally::default();
        for spec in cases {
            tally.count(&report(&mut verdicts, spec)?);
        }
        writeln!(verdicts, "{tally}")?;
        Ok(rustix::termios::tcdrain(&verdicts)?)
    });
    power_off(done)
}

/// Counts what requests take, and powers off.
pub(crate) fn bench() -> ExitCode {
    let done = prepare().and_then(|()| {
        let lines = OpenOptions::new().write(true).open(VERDICTS)?;
        let mut agent = Command::new("/proc/self/exe");
        agent.arg(bench::WORD).env("PATH", "/bin");
        agent.stdout(lines.try_clone()?).stderr(lines.try_clone()?).status()?;
        Ok(rustix::termios::tcdrain(&lines)?)
    });
    power_off(done)
}

/// Gives the console a shell, and powers off when it ends.
pub(crate) fn shell() -> ExitCode {
    let done = prepare().and_then(|()| {
        Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status()?;
        // A session of its own, with the console as its terminal, so that Ctrl-C works.
        let mut shell = Command::new("/bin/setsid");
        shell
            .args(["/bin/cttyhack", "/bin/sh"])
            .env("HOME", "/tmp")
            .env("PS1", "guest # ")
            .env("PATH", "/bin");
        shell.status()?;
        Ok(())
    });
    power_off(done)
}

fn prepare() -> Outcome {
    for (kind, place) in MOUNTS {
        match mount(kind, place, kind, MountFlags::empty(), None) {
            // The kernel may have mounted /dev by itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(Failure(format!("cannot mount {place}: {error}"))),
        }
    }
    fs::create_dir_all("/dev/hugepages")?;
    mount("hugetlbfs", "/dev/hugepages", "hugetlbfs", MountFlags::empty(), None)?;
    for device in devices::edus()? {
        device.enable()?;
    }
    Ok(())
}

/// Runs one case and tells its verdict, and what it wrote if it did not hold.
fn report(verdicts: &mut File, spec: &Spec) -> io::Result<Verdict> {
    // Told first, so that the rig knows where a guest died.
    verdicts.write_all(opening(spec.name).as_bytes())?;
    let mut agent = Command::new("/proc/self/exe");
    agent.env("PATH", "/bin");
    let (verdict, lines) = spec.run_apart(agent);
    writeln!(verdicts, "{verdict}")?;
    for line in lines {
        writeln!(verdicts, "  {line}")?;
    }
    clear_away();
    Ok(verdict)
}

/// Ends whatever a case has left running. To process 1, the group of this number is everybody else.
fn clear_away() {
    // Nobody to end is the usual case.
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
    while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
}

fn power_off(done: Outcome) -> ExitCode {
    if let Err(Failure(why)) = done {
        eprintln!("guest: {why}");
    }
    // Lets the console write what it still holds.
    thread::sleep(Duration::from_millis(200));
    match reboot(RebootCommand::PowerOff) {
        // Process 1 may not end: what is left is Linux's panic, which ends QEMU as well.
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: cannot power off: {error}");
            ExitCode::FAILURE
        }
    }
}
