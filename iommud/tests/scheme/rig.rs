//! The desk, before a service on simulated hardware, and what is asked of it.

use std::time::Instant;

use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommud::platform::sim::SimPlatform;
use iommud::transport::scheme::request::Client;
use iommud::transport::scheme::{Desk, Reply, Request, desk};
use libdma::protocol::call::{Hello, Opcode};
use libdma::protocol::{Rights, derive};
use libdma::{Access, Error};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

pub(crate) const EDU: &str = "device/0000--00--02.0";
pub(crate) const ROOT: Client = Client { uid: 0, process: Some(7) };
pub(crate) const USER: Client = Client { uid: 1000, process: Some(8) };

/// A tag that cannot be copied, as the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) u32);

pub(crate) struct Rig {
    pub(crate) desk: Desk<SimPlatform, Tag>,
    pub(crate) root: usize,
    pub(crate) now: Instant,
    pub(crate) last_tag: u32,
}

impl Rig {
    pub(crate) fn new(config: MachineConfig) -> Self {
        let platform = SimPlatform::new(config).unwrap();
        let Ok(service) = Service::start(platform, Settings::default()) else { panic!("no IOMMU") };
        Self::of(service)
    }

    pub(crate) fn of(mut service: Service<SimPlatform>) -> Self {
        while !service.engine().is_settled() {
            service.poll();
        }
        let mut desk = Desk::new(service);
        let root = desk.root();
        assert_eq!(root, desk::ROOT);
        Self { desk, root, now: Instant::now(), last_tag: 0 }
    }

    pub(crate) fn request(
        &mut self,
        request: Request,
        client: Client,
    ) -> Option<Result<Reply, Error>> {
        self.last_tag += 1;
        let tag = self.last_tag;
        let (answered, result) = self.desk.serve(Tag(tag), request, client, self.now)?;
        assert_eq!(answered, Tag(tag));
        Some(result)
    }

    /// The answer to a request, whenever it comes.
    pub(crate) fn ask(&mut self, request: Request, client: Client) -> Result<Reply, Error> {
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

    pub(crate) fn open(&mut self, path: &str, client: Client) -> Result<usize, Error> {
        self.ask(open(self.root, path), client).map(number)
    }

    pub(crate) fn derive(
        &mut self,
        handle: usize,
        request: &(impl IntoBytes + Immutable),
    ) -> Result<usize, Error> {
        let bytes = request.as_bytes().to_vec();
        self.ask(Request::Derive { handle, bytes }, ROOT).map(number)
    }

    pub(crate) fn call(
        &mut self,
        handle: usize,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let (opcode, payload) = (opcode as u64, payload.to_vec());
        self.ask(Request::Call { handle, opcode, payload }, ROOT).map(bytes)
    }

    /// A device, greeted.
    pub(crate) fn device(&mut self) -> usize {
        let device = self.open(EDU, ROOT).unwrap();
        self.call(device, Opcode::Hello, Hello::new().as_bytes()).unwrap();
        device
    }
}

pub(crate) fn open(folder: usize, path: &str) -> Request {
    Request::Open { folder, path: path.into(), only_folder: false }
}

pub(crate) fn number(reply: Reply) -> usize {
    let Reply::Handle { number, .. } = reply else { panic!("{reply:?}") };
    number
}

pub(crate) fn bytes(reply: Reply) -> Vec<u8> {
    let Reply::Bytes(bytes) = reply else { panic!("{reply:?}") };
    bytes
}

pub(crate) fn allocation(bytes: u64) -> derive::Allocate {
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

pub(crate) fn copy(rights: Rights) -> derive::Copy {
    derive::Copy { kind: U32::new(derive::Kind::Copy as u32), rights: U32::new(rights.bits()) }
}
