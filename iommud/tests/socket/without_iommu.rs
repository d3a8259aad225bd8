//! A machine without an IOMMU.

use libdma::{Access, Device, Iova};

use crate::edu::Edu;
use crate::rig::{Daemon, Folder, edu, eventually, iommuctl, iommud};

const ALLOWED: &str = "(without_iommu: unprotected)";

fn start() -> Daemon {
    let folder = Folder::new();
    let policy = folder.file("policy.ron", ALLOWED);
    Daemon::start_with(folder, &["--unit", "none", "--policy", policy.to_str().unwrap()])
}

#[test]
fn r1_it_refuses_by_default_with_its_own_exit_code_and_says_how_to_allow_it() {
    let folder = Folder::new();
    let output = iommud(&folder.socket(), &["--sim", "--unit", "none"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let last = "iommud: the firmware describes no IOMMU: it has none, or it is switched off in the firmware's \
                setup; to serve drivers without any protection, say `without_iommu: unprotected` in the policy\n";
    assert!(said.ends_with(last), "{said}");
    assert_eq!(iommuctl(&folder.socket(), &["units"]).status.code(), Some(3));
}

#[test]
fn where_the_policy_allows_it_drivers_work_and_nothing_is_blocked() {
    let daemon = start();
    let loud = "iommud: NO IOMMU: devices are NOT CONFINED, and drivers are served all the same\n";
    assert!(daemon.said().contains(loud), "{}", daemon.said());
    let device = Device::open(daemon.connect(), edu()).unwrap();
    assert!(!device.is_confined());
    let out = device.coherent("out").access(Access::Read).alone().slice::<u64>(512).unwrap();
    let back = device.coherent("back").access(Access::Write).alone().slice::<u64>(512).unwrap();
    (0..512).for_each(|index| out.write(index, index as u64 * 3).unwrap());
    let registers = Edu::open(daemon.connect()).unwrap();
    registers.read(out.iova(), 4096);
    registers.write(back.iova(), 4096);
    assert!((0..512).all(|index| back.read(index) == Ok(index as u64 * 3)));
    // What would be a rogue's: the driver's own memory for reading is written to, and nobody blocks it.
    registers.read(out.iova(), 8);
    registers.write(Iova::new(out.iova().get() + 8), 8);
    assert_eq!(out.read(1), Ok(0), "NOT BLOCKED");
    assert_eq!(iommuctl(&daemon.socket(), &["faults", "--check"]).status.code(), Some(0));
    drop((out, back, device));
    eventually(|| (!registers.is_bus_master()).then_some(()));
    drop(registers);
    daemon.is_well();
}

#[test]
fn iommuctl_shows_it() {
    let daemon = start();
    let show = |words: &[&str]| {
        let output = iommuctl(&daemon.socket(), words);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(show(&["units"]), "no IOMMU: devices are NOT CONFINED\n");
    let devices = "\
DEVICE        ID         CLASS   UNIT  STATE         DOMAIN  SESSION  UID  BUFFERS  FAULTS
0000:00:00.0  8086:29c0  060000     -  NOT CONFINED       -        -    -        0       0
    it reaches all memory, for this machine has no IOMMU
0000:00:02.0  1234:11e8  00ff00     -  NOT CONFINED       -        -    -        0       0
    it reaches all memory, for this machine has no IOMMU
";
    assert_eq!(show(&["devices"]), devices);
    let config = show(&["config"]);
    let first = config.lines().nth(1).unwrap();
    assert!(first.starts_with("IOMMU ") && first.ends_with(" NONE: devices are NOT CONFINED"));
    assert_eq!(daemon.setting("policy without an IOMMU"), "unprotected");
    assert_eq!(
        daemon.setting("POLICY"),
        "on a machine without an IOMMU devices are NOT CONFINED (unprotected)"
    );
}
