//! Names and numbers: what may be opened, by whom, and how many.

use iommu_service::sessions::orphans::MOST_RESUMES;
use iommu_service::{Service, Settings};
use iommud::transport::scheme::open::MOST_OF_A_USER;
use iommud::transport::scheme::request::{Client, MapRequest, Shape};
use iommud::transport::scheme::{Reply, Request};
use libdma::Error;
use libdma::protocol::Rights;
use zerocopy::IntoBytes;

use crate::rig::*;
use crate::vendor::Vendor;

both! {
    a_text_is_a_file_in_a_folder,
    the_root_has_its_number_in_a_daemon_that_adopted_too,
    r3_a_device_is_opened_by_root_alone_and_once,
    r5_a_user_runs_out_of_handles_before_the_daemon_runs_out_of_memory,
    r5_numbers_that_are_nobodys_are_errors,
    r5_of_claims_to_a_session_the_oldest_is_forgotten,
}

fn a_text_is_a_file_in_a_folder(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let root = rig.open("", USER).unwrap();
    assert_eq!(rig.ask(Request::Stat(root), USER), Ok(Reply::Shape(Shape::Folder, 0)));
    let listed = rig.ask(Request::List { handle: root, from: 0 }, USER).unwrap();
    let Reply::Entries { folder, from } = listed else { panic!("{listed:?}") };
    let names: Vec<_> = Reply::entries(folder, from).map(|(_, entry)| entry.name).collect();
    assert!(names.contains(&"units") && names.contains(&"device"), "{names:?}");

    let units = rig.ask(open(root, "/units"), USER).unwrap();
    assert!(matches!(units, Reply::Handle { positioned: true, .. }));
    let units = number(units);
    let read = |rig: &mut Rig, offset, bytes| {
        self::bytes(rig.ask(Request::Read { handle: units, offset, bytes }, USER).unwrap())
    };
    let text = read(&mut rig, 0, 10_000);
    assert!(String::from_utf8_lossy(&text).contains(vendor.name()));
    assert_eq!(read(&mut rig, 3, 5), text[3..8]);
    assert!(read(&mut rig, text.len() as u64, 5).is_empty());
    let length = text.len() as u64;
    assert_eq!(rig.ask(Request::Stat(units), USER), Ok(Reply::Shape(Shape::Text, length)));
    assert_eq!(rig.ask(Request::Length(units), USER), Ok(Reply::Length(length)));
    assert_eq!(rig.ask(Request::Path(units), USER).map(bytes), Ok(b"/scheme/iommu/units".into()));
    let list = Request::List { handle: units, from: 0 };
    assert_eq!(rig.ask(list, USER), Err(Error::Other(20)));
    let only_folder = Request::Open { folder: root, path: "units".into(), only_folder: true };
    assert_eq!(rig.ask(only_folder, USER), Err(Error::Other(20)));
    assert_eq!(rig.ask(open(units, "units"), USER), Err(Error::WrongHandleKind));
}

fn the_root_has_its_number_in_a_daemon_that_adopted_too(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.open(EDU, ROOT).unwrap();
    for _ in 0..2 {
        let mut platform = rig.desk.into_service().into_platform();
        platform.inherit();
        let Ok(service) = Service::adopt(platform, Settings::default()) else { panic!("refused") };
        rig = Rig::of(service);
        assert!(rig.open("units", USER).unwrap() > device, "numbers of before are nobody's");
    }
}

fn r3_a_device_is_opened_by_root_alone_and_once(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    assert_eq!(rig.open(EDU, USER), Err(Error::NotPermitted));
    let folder = rig.open("device", ROOT).unwrap();
    let device = rig.ask(open(folder, "0000--00--02.0"), ROOT).unwrap();
    assert!(matches!(device, Reply::Handle { positioned: false, .. }));
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    let device = number(device);
    assert_eq!(rig.ask(Request::Stat(device), ROOT), Ok(Reply::Shape(Shape::Object, 0)));
    assert_eq!(
        rig.ask(Request::Path(device), ROOT).map(bytes).unwrap(),
        format!("/scheme/iommu/{EDU}").into_bytes()
    );
    rig.desk.close(device);
    assert_eq!(rig.ask(Request::Check(device), ROOT), Err(Error::BadHandle));
    // Once too often is nobody's end.
    rig.desk.close(device);
    rig.open(EDU, ROOT).unwrap();
}

fn r5_a_user_runs_out_of_handles_before_the_daemon_runs_out_of_memory(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let held: Vec<_> = (0..MOST_OF_A_USER).map(|_| rig.open("units", USER).unwrap()).collect();
    assert_eq!(rig.open("units", USER), Err(Error::QuotaExceeded));
    let request =
        Request::Derive { handle: held[0], bytes: copy(Rights::empty()).as_bytes().to_vec() };
    assert_eq!(rig.ask(request, USER), Err(Error::QuotaExceeded));
    assert!(rig.open("units", Client { uid: 1001, ..USER }).is_ok());
    assert!(rig.open("units", ROOT).is_ok());
    rig.desk.close(held[0]);
    assert!(rig.open("units", USER).is_ok());
}

fn r5_numbers_that_are_nobodys_are_errors(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let mapping = MapRequest { offset: 0, bytes: 1, shared: true, write: false, execute: false };
    for handle in [0, rig.root + 1, usize::MAX] {
        let requests = [
            open(handle, "units"),
            Request::Derive { handle, bytes: vec![1] },
            Request::Call { handle, opcode: u64::MAX, payload: Vec::new() },
            Request::Read { handle, offset: u64::MAX, bytes: 1 },
            Request::Map { handle, mapping },
            Request::Stat(handle),
            Request::Length(handle),
            Request::Path(handle),
            Request::Watch { handle, wanted: true },
            Request::List { handle, from: u64::MAX },
            Request::Check(handle),
        ];
        for request in requests {
            assert_eq!(rig.ask(request, ROOT), Err(Error::BadHandle));
        }
    }
}

fn r5_of_claims_to_a_session_the_oldest_is_forgotten(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let mut claim = || rig.open("resume/0000--00--02.0", ROOT).unwrap();
    let claims: Vec<_> = (0..=MOST_RESUMES).map(|_| claim()).collect();
    assert_eq!(rig.ask(Request::Check(claims[0]), ROOT), Err(Error::BadHandle));
    for claim in &claims[1..] {
        assert_eq!(rig.ask(Request::Check(*claim), ROOT), Ok(Reply::Done));
    }
    // The kernel may tell of its end still.
    claims.into_iter().for_each(|claim| rig.desk.close(claim));
    assert_eq!(rig.desk.service().handles(), 1);
}
