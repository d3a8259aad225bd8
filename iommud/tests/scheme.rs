//! The Redox transport as far as it runs anywhere: the desk, before a service on simulated hardware.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use iommu_engine::platform::BufferRuns;
use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use iommud::transport::scheme::open::{GRACE, MOST_OF_A_USER};
use iommud::transport::scheme::request::{Client, MapRequest, Shape};
use iommud::transport::scheme::{Desk, Reply, Request, desk};
use libdma::protocol::call::{BufferInfo, Hello, Opcode};
use libdma::protocol::event::{EventRecord, EventsHeader};
use libdma::protocol::handle::Revoke;
use libdma::protocol::{Rights, derive};
use libdma::{Access, Error};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::vendor::{Vendor, slow, slow_down};

#[macro_use]
mod vendor;

both! {
    a_text_is_a_file_in_a_folder,
    the_root_has_its_number_in_a_daemon_that_adopted_too,
    r3_a_device_is_opened_by_root_alone_and_once,
    r3_of_a_buffer_no_more_is_mapped_than_it_has_and_its_handle_allows,
    r3_by_a_revoked_handle_nothing_is_mapped,
    a_request_that_hardware_must_confirm_is_answered_later_and_once,
    r5_an_opening_that_hardware_never_confirms_is_refused_at_the_deadline,
    r4_a_handle_that_its_client_died_for_is_closed,
    r4_a_request_whose_client_was_killed_meanwhile_is_answered_once_and_leaves_nothing,
    r4_a_buffer_that_nobody_ever_mapped_is_given_back_with_its_handle,
    r5_a_user_runs_out_of_handles_before_the_daemon_runs_out_of_memory,
    r5_numbers_that_are_nobodys_are_errors,
    r7_memory_that_a_handle_does_not_get_goes_back_to_where_it_came_from,
    a_device_handle_is_readable_when_there_is_a_fault_and_until_it_was_read,
}

const EDU: &str = "device/0000--00--02.0";
const ROOT: Client = Client { uid: 0, process: Some(7) };
const USER: Client = Client { uid: 1000, process: Some(8) };

/// A tag that cannot be copied, as the kernel's.
#[derive(Debug, PartialEq, Eq)]
struct Tag(u32);

struct Rig {
    desk: Desk<SimPlatform, Tag>,
    root: usize,
    now: Instant,
    last_tag: u32,
}

impl Rig {
    fn new(config: MachineConfig) -> Self {
        let platform = SimPlatform::new(config).unwrap();
        let Ok(service) = Service::start(platform, Settings::default()) else { panic!("no IOMMU") };
        Self::of(service)
    }

    fn of(mut service: Service<SimPlatform>) -> Self {
        while !service.engine().is_settled() {
            service.poll();
        }
        let mut desk = Desk::new(service);
        let root = desk.root();
        assert_eq!(root, desk::ROOT);
        Self { desk, root, now: Instant::now(), last_tag: 0 }
    }

    fn request(&mut self, request: Request, client: Client) -> Option<Result<Reply, Error>> {
        self.last_tag += 1;
        let tag = self.last_tag;
        let (answered, result) = self.desk.serve(Tag(tag), request, client, self.now)?;
        assert_eq!(answered, Tag(tag));
        Some(result)
    }

    /// The answer to a request, whenever it comes.
    fn ask(&mut self, request: Request, client: Client) -> Result<Reply, Error> {
        if let Some(result) = self.request(request, client) {
            return result;
        }
        loop {
            if let Some((tag, result)) = self.desk.poll(self.now).pop() {
                assert_eq!(tag, Tag(self.last_tag));
                return result;
            }
        }
    }

    fn open(&mut self, path: &str, client: Client) -> Result<usize, Error> {
        self.ask(open(self.root, path), client).map(number)
    }

    fn derive(
        &mut self,
        handle: usize,
        request: &(impl IntoBytes + Immutable),
    ) -> Result<usize, Error> {
        let bytes = request.as_bytes().to_vec();
        self.ask(Request::Derive { handle, bytes }, ROOT).map(number)
    }

    fn call(&mut self, handle: usize, opcode: Opcode, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let (opcode, payload) = (opcode as u64, payload.to_vec());
        self.ask(Request::Call { handle, opcode, payload }, ROOT).map(bytes)
    }

    /// A device, greeted.
    fn device(&mut self) -> usize {
        let device = self.open(EDU, ROOT).unwrap();
        self.call(device, Opcode::Hello, Hello::new().as_bytes()).unwrap();
        device
    }
}

fn open(folder: usize, path: &str) -> Request {
    Request::Open { folder, path: path.into(), only_folder: false }
}

fn number(reply: Reply) -> usize {
    let Reply::Handle { number, .. } = reply else { panic!("{reply:?}") };
    number
}

fn bytes(reply: Reply) -> Vec<u8> {
    let Reply::Bytes(bytes) = reply else { panic!("{reply:?}") };
    bytes
}

fn allocation(bytes: u64) -> derive::Allocate {
    derive::Allocate {
        kind: U32::new(derive::Kind::Allocate as u32),
        access: U32::new(libdma::protocol::call::access_code(Access::ReadWrite)),
        bytes: U64::new(bytes),
        align: U64::new(4096),
        limit: U64::new(u64::MAX),
        cache: U32::ZERO,
        reserved: U32::ZERO,
        label: derive::Allocate::label("ring"),
    }
}

fn copy(rights: Rights) -> derive::Copy {
    derive::Copy { kind: U32::new(derive::Kind::Copy as u32), rights: U32::new(rights.bits()) }
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

fn r3_of_a_buffer_no_more_is_mapped_than_it_has_and_its_handle_allows(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    rig.call(buffer, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let info = rig.call(buffer, Opcode::BufferInfo, &[0; size_of::<BufferInfo>()]).unwrap();
    assert_eq!(BufferInfo::read_from_bytes(&info).unwrap().bytes.get(), 0x3000);
    let good =
        MapRequest { offset: 0x1000, bytes: 0x2000, shared: true, write: true, execute: false };
    let map = |rig: &mut Rig, handle, mapping| rig.ask(Request::Map { handle, mapping }, ROOT);
    let mapped = map(&mut rig, buffer, good);
    assert!(matches!(mapped, Ok(Reply::Memory { offset: 0x1000, .. })), "{mapped:?}");
    let refused = [
        (MapRequest { shared: false, ..good }, Error::NotShared),
        (MapRequest { execute: true, ..good }, Error::NotPermitted),
        (MapRequest { bytes: 0x2001, ..good }, Error::OutOfBuffer),
        (MapRequest { offset: 0x3000, bytes: 1, ..good }, Error::OutOfBuffer),
        (MapRequest { offset: u64::MAX - 0xfff, ..good }, Error::Overflow),
        (MapRequest { bytes: 0, ..good }, Error::ZeroSize),
    ];
    for (mapping, error) in refused {
        assert_eq!(map(&mut rig, buffer, mapping), Err(error), "{mapping:?}");
    }
    assert_eq!(map(&mut rig, device, good), Err(Error::WrongHandleKind));
    let weaker = rig.derive(buffer, &copy(Rights::READ)).unwrap();
    assert_eq!(map(&mut rig, weaker, good), Err(Error::NotPermitted));
    assert!(map(&mut rig, weaker, MapRequest { write: false, ..good }).is_ok());
}

/// Not even once more what is mapped: libdma has it mapped so that a child gets it of the kernel.
fn r3_by_a_revoked_handle_nothing_is_mapped(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    rig.call(buffer, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let passed = rig.derive(buffer, &copy(Rights::READ)).unwrap();
    let mapping =
        MapRequest { offset: 0, bytes: 0x1000, shared: true, write: false, execute: false };
    rig.ask(Request::Map { handle: passed, mapping }, ROOT).unwrap();
    rig.call(buffer, Opcode::Revoke, Revoke::default().as_bytes()).unwrap();
    while rig.desk.is_waiting() {
        rig.desk.poll(rig.now);
    }
    assert_eq!(rig.ask(Request::Map { handle: passed, mapping }, ROOT), Err(Error::Revoked));
    // What was mapped is given back all the same.
    assert_eq!(rig.ask(Request::Check(passed), ROOT), Ok(Reply::Done));
}

fn a_request_that_hardware_must_confirm_is_answered_later_and_once(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.caching(), Takes::After(2_000_000)));
    assert_eq!(rig.request(open(rig.root, EDU), ROOT), None);
    assert!(rig.desk.is_waiting());
    // Nobody else waits for it, and nobody else gets the device.
    assert!(rig.request(open(rig.root, "units"), USER).unwrap().is_ok());
    assert_eq!(rig.request(open(rig.root, EDU), ROOT), None);
    let mut answered = Vec::new();
    while answered.is_empty() {
        answered = rig.desk.poll(rig.now);
    }
    let [(Tag(1), Ok(Reply::Handle { number, .. }))] = answered[..] else { panic!("{answered:?}") };
    assert!(rig.desk.poll(rig.now).is_empty());
    assert_eq!(rig.ask(Request::Check(number), ROOT), Ok(Reply::Done));
    while answered.len() < 2 {
        answered.extend(rig.desk.poll(rig.now));
    }
    assert_eq!(answered[1], (Tag(3), Err(Error::DeviceBusy)));
}

fn r5_an_opening_that_hardware_never_confirms_is_refused_at_the_deadline(vendor: Vendor) {
    let mut rig = Rig::new(vendor.caching());
    slow_down(&mut rig.desk.service().platform().machine_mut(), Takes::Never);
    let handles = rig.desk.service().handles();
    assert_eq!(rig.open(EDU, ROOT), Err(Error::TimedOut));
    assert_eq!(rig.desk.service().handles(), handles);
}

fn r4_a_handle_that_its_client_died_for_is_closed(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    rig.open(EDU, ROOT).unwrap();
    let ended = |process| Some(process) == ROOT.process;
    // Its process may have passed it to one that has not come to use it yet.
    rig.desk.close_lost(rig.now + GRACE - Duration::from_millis(1), ended);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    // As long as its process lives, it may keep it for later.
    rig.desk.close_lost(rig.now + 10 * GRACE, |_| false);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    rig.desk.close_lost(rig.now + GRACE, ended);
    let device = rig.open(EDU, ROOT).unwrap();

    // Once used, it is somebody's.
    rig.ask(Request::Check(device), ROOT).unwrap();
    rig.desk.close_lost(rig.now + 10 * GRACE, ended);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    // So is the scheme's root, which nobody has used if all opened other folders.
    assert!(rig.open("", ROOT).is_ok());
}

fn r4_a_request_whose_client_was_killed_meanwhile_is_answered_once_and_leaves_nothing(
    vendor: Vendor,
) {
    let mut rig = Rig::new(vendor.caching());
    let handles = rig.desk.service().handles();
    let device = rig.device();
    slow_down(&mut rig.desk.service().platform().machine_mut(), Takes::After(2_000_000));
    let derive = |rig: &mut Rig| {
        let bytes = allocation(0x1000).as_bytes().to_vec();
        rig.request(Request::Derive { handle: device, bytes }, ROOT)
    };
    // One waits that was asked first, one that was asked later; the kernel wants an answer to both.
    assert_eq!((derive(&mut rig), derive(&mut rig)), (None, None));
    let last = rig.last_tag;
    // The client is killed: what the kernel says is that its descriptors are gone.
    rig.desk.close(device);
    let mut answered = Vec::new();
    while rig.desk.is_waiting() {
        answered.extend(rig.desk.poll(rig.now).into_iter().map(|(Tag(tag), _)| tag));
    }
    answered.sort_unstable();
    assert_eq!(answered, [last - 1, last]);
    // Of the handles in the answers nobody hears any more.
    rig.desk.close_lost(rig.now + GRACE, |_| true);
    assert_eq!(rig.desk.service().handles(), handles);
    for _ in 0..1000 {
        assert!(rig.desk.poll(rig.now).is_empty());
    }
    assert_eq!(rig.desk.service().platform().usage().live_runs, 0);
}

fn r4_a_buffer_that_nobody_ever_mapped_is_given_back_with_its_handle(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let buffer = rig.derive(device, &allocation(0x3000)).unwrap();
    assert_eq!(rig.desk.service().platform().usage().live_runs, 1);
    rig.desk.close(buffer);
    while rig.desk.is_waiting() {
        rig.desk.poll(rig.now);
    }
    assert_eq!(rig.desk.service().platform().usage().live_runs, 0);
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

fn a_device_handle_is_readable_when_there_is_a_fault_and_until_it_was_read(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let watch = |rig: &mut Rig, handle, wanted| rig.ask(Request::Watch { handle, wanted }, ROOT);
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(false)));
    offend(&mut rig);
    assert_eq!(rig.desk.take_readable(), [device]);
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(true)));
    let mut room = [0; size_of::<EventsHeader>() + size_of::<EventRecord>()];
    room[0] = 1;
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(room.len()));
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(16));
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(false)));

    // Whoever wants to know of nothing is told nothing, and neither is one who has gone.
    assert_eq!(watch(&mut rig, device, false), Ok(Reply::Readable(false)));
    offend(&mut rig);
    assert!(rig.desk.take_readable().is_empty());
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(true)));
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(room.len()));
    let copy = rig.derive(device, &copy(Rights::INSPECT)).unwrap();
    assert_eq!(watch(&mut rig, copy, true), Ok(Reply::Readable(false)));
    rig.desk.close(device);
    offend(&mut rig);
    assert_eq!(rig.desk.take_readable(), [copy]);

    let text = rig.open("units", ROOT).unwrap();
    assert_eq!(watch(&mut rig, text, true), Err(Error::WrongHandleKind));
}

/// Lets the device write where it may not.
fn offend(rig: &mut Rig) {
    let edu = "0000:00:02.0".parse().unwrap();
    {
        let mut machine = rig.desk.service().platform().machine_mut();
        machine.config_write(edu, 4, 6);
        machine.dma_write(edu, 0x5000, &[1; 8]).unwrap_err();
    }
    rig.desk.poll(rig.now);
}

fn r7_memory_that_a_handle_does_not_get_goes_back_to_where_it_came_from(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.caching(), Takes::After(2_000_000)));
    let device = rig.device();
    let request = |limit: u64| derive::Register {
        kind: U32::new(derive::Kind::Register as u32),
        access: U32::new(3),
        bytes: U64::new(0x2000),
        align: U64::new(4096),
        limit: U64::new(limit),
        address: U64::new(0x5000),
        label: derive::Allocate::label("mine"),
    };
    let supply = |rig: &mut Rig, handle: usize, memory: Option<()>| {
        rig.last_tag += 1;
        let given_back = std::cell::Cell::new(false);
        let answered = rig.desk.supply(
            Tag(rig.last_tag),
            handle,
            |platform, awaited| {
                assert_eq!((awaited.address, awaited.bytes), (0x5000, 0x2000));
                memory.and_then(|()| platform.alloc_run(0x2000)).ok_or(Error::NotMemory)
            },
            |_, _, awaited| given_back.set(awaited.address == 0x5000),
        );
        (answered, given_back.get())
    };
    // A device's handle wants no memory, and none is looked at.
    let (answered, _) = supply(&mut rig, device, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::WrongHandleKind)))), "{answered:?}");
    let (answered, _) = supply(&mut rig, usize::MAX, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::BadHandle)))), "{answered:?}");

    let low = rig.derive(device, &request(0x1fff)).unwrap();
    rig.call(low, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let (answered, given_back) = supply(&mut rig, low, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::NoAddressSpace)))), "{answered:?}");
    assert!(given_back);

    let handle = rig.derive(device, &request(u64::MAX)).unwrap();
    rig.call(handle, Opcode::Hello, Hello::new().as_bytes()).unwrap();
    let (answered, given_back) = supply(&mut rig, handle, None);
    assert!(matches!(answered, Some((_, Err(Error::NotMemory)))), "{answered:?}");
    assert!(!given_back, "nothing was taken");
    let (answered, given_back) = supply(&mut rig, handle, Some(()));
    assert!(!given_back);
    // The answer comes when hardware has it: here, units that cache what is absent.
    let answered = answered.or_else(|| {
        assert!(rig.desk.is_waiting());
        (0..1_000_000).find_map(|_| rig.desk.poll(rig.now).pop())
    });
    assert!(matches!(answered, Some((_, Ok(Reply::Done | Reply::Bytes(_))))), "{answered:?}");
    let mapping =
        MapRequest { offset: 0, bytes: 0x2000, shared: true, write: true, execute: false };
    assert!(rig.ask(Request::Map { handle, mapping }, ROOT).is_ok());
    let (answered, _) = supply(&mut rig, handle, Some(()));
    assert!(matches!(answered, Some((_, Err(Error::WrongHandleKind)))), "{answered:?}");
}
