//! What a driver does with libdma, by chance: everything that there is.

use std::sync::Arc;

use dma_types::{Access, Iova};
use libdma::protocol::Rights;
use libdma::stream::{DeviceOwned, Gather};
use libdma::{
    Attachment, Bidirectional, Buffer, Coherent, Device, Domain, Entered, Error, ForeignMemory,
    FromDevice, Handle, MapRequest, Mapped, Pool, PoolBlock, ScatterList, Stream, StreamBuffer,
    ToDevice, UnmappedBuffer,
};

use crate::pages::Pages;
use crate::world::World;
use fuzz::Chance;

/// What is in memory that no device is to reach.
const PATTERN: [u8; 32] = *b"no device has ever seen this one";

/// A driver, and whatever it has at the moment.
pub(crate) struct Driver {
    world: Arc<World>,
    chance: Chance,
    device: Device,
    held: Vec<Held>,
    /// What it has given to the other.
    pub(crate) given: Vec<Attachment>,
}

/// Something that a driver has.
enum Held {
    Coherent(#[expect(dead_code, reason = "had, and not used")] Coherent<[u8]>),
    Buffer(#[expect(dead_code, reason = "had, and not used")] Buffer),
    /// One that no device is let reach.
    Kept(Buffer),
    Unmapped(#[expect(dead_code, reason = "had, and not used")] UnmappedBuffer),
    Mapped(Buffer, Vec<Mapped>),
    Pool(Pool<[u8]>, Vec<PoolBlock<[u8]>>),
    Sent(StreamBuffer<ToDevice, DeviceOwned>),
    Received(StreamBuffer<FromDevice, DeviceOwned>),
    List(ScatterList<'static, Bidirectional, DeviceOwned>),
    Gather(Gather<ToDevice>, Stream<ToDevice>),
    Domain(Domain, Buffer, Option<Entered>),
    Attached(#[expect(dead_code, reason = "had, and not used")] Attachment),
    Handle(#[expect(dead_code, reason = "had, and not used")] Handle),
}

/// What a step comes to.
type Step = Result<Option<Held>, Error>;

impl Driver {
    pub(crate) fn new(world: Arc<World>, device: Device, chance: Chance) -> Self {
        Self { world, chance, device, held: Vec::new(), given: Vec::new() }
    }

    /// It dies: nothing of it is ever dropped, for no code of it runs any more. What it gave away is the other's.
    pub(crate) fn forget(self) -> Vec<Attachment> {
        std::mem::forget((self.device, self.held));
        self.given
    }

    /// Takes a step. What fails is as it was before.
    pub(crate) fn step(&mut self, other: &Device, others: &Buffer, pages: &mut Pages) {
        let made = match self.chance.below(24) {
            0 => self.coherent(),
            1 => self.buffer(),
            2 => self.kept(),
            3 => self.unmapped(),
            4 => self.mapped(),
            5 | 6 => self.pool(),
            7 | 8 => self.sent(),
            9 | 10 => self.received(),
            11 => self.list(),
            12 => self.gather(),
            13 => self.domain(),
            14 => self.give(other),
            15 => self.get(others),
            16 => self.registered(pages),
            17 => self.device.derive(Rights::DEVICE).map(|it| Some(Held::Handle(it))),
            18 => self.device.events().map(|_| None),
            19 => {
                self.device.trim();
                Ok(None)
            }
            _ => self.go_on(),
        };
        match made {
            Ok(held) => self.held.extend(held),
            Err(
                Error::DaemonGone
                | Error::MappedElsewhere
                | Error::AlreadyEntered
                | Error::NotEntered
                | Error::NoAddressSpace
                | Error::QuotaExceeded,
            ) => {}
            Err(other) => panic!("a driver that does nothing wrong is refused: {other}"),
        }
        if self.held.len() > 24 {
            drop(self.chance.take(&mut self.held));
        }
        self.hardware();
    }

    /// What device and time do in between.
    fn hardware(&mut self) {
        let mut world = self.world.lock();
        match self.chance.below(8) {
            0 => world.transfer(),
            1 => world.touch(),
            2 => world.pass(self.chance.below(30_000) as u64),
            3 => world.poll(),
            _ => {}
        }
    }

    /// Tells the device where something is.
    fn tell(&self, iova: Option<Iova>, bytes: usize) {
        if let Some(iova) = iova {
            self.world.lock().knows(iova.get(), bytes as u64);
        }
    }

    fn bytes(&mut self) -> usize {
        let pages = [64, 700, 4096, 3 * 4096, 9 * 4096, 70_000];
        pages[self.chance.below(pages.len())]
    }

    fn whole_pages(&mut self) -> u64 {
        // Rarely one that is mapped by a large page.
        if self.chance.once_in(100) { 2 << 20 } else { 4096 * (1 + self.chance.below(5) as u64) }
    }

    fn access(&mut self) -> Access {
        [Access::Read, Access::Write, Access::ReadWrite][self.chance.below(3)]
    }

    fn coherent(&mut self) -> Step {
        let (bytes, access) = (self.bytes(), self.access());
        let it = self.device.coherent("coherent").access(access).bytes(bytes)?;
        self.tell(Some(it.iova()), bytes);
        Ok(Some(Held::Coherent(it)))
    }

    fn buffer(&mut self) -> Step {
        let (bytes, access) = (self.whole_pages(), self.access());
        let it = self.device.allocate(bytes, Some(access), "buffer")?;
        self.tell(it.iova(), bytes as usize);
        Ok(Some(Held::Buffer(it)))
    }

    fn kept(&mut self) -> Step {
        let it = self.device.allocate(4096, None, "kept")?;
        it.write(64, &PATTERN)?;
        Ok(Some(Held::Kept(it)))
    }

    fn unmapped(&mut self) -> Step {
        let access = self.access();
        let it = self.device.buffer("unmapped").access(access).allocate_unmapped(8192)?;
        self.tell(it.iova(), 8192);
        Ok(Some(Held::Unmapped(it)))
    }

    fn mapped(&mut self) -> Step {
        let buffer = self.device.allocate(4 * 4096, None, "in pieces")?;
        let access = self.access();
        let piece = |offset, bytes| MapRequest { buffer: &buffer, offset, bytes, access };
        let mapped = self.device.map(&[piece(0, 4096), piece(8192, 8192), piece(0, 16384)])?;
        for it in &mapped {
            self.tell(Some(it.iova()), 4096);
        }
        Ok(Some(Held::Mapped(buffer, mapped)))
    }

    fn pool(&mut self) -> Step {
        let access = self.access();
        let pool = self.device.pool("pool").access(access).bytes(256)?;
        let mut blocks = Vec::new();
        for _ in 0..1 + self.chance.below(20) {
            blocks.push(pool.alloc()?);
        }
        self.tell(blocks.first().map(PoolBlock::iova), 256);
        Ok(Some(Held::Pool(pool, blocks)))
    }

    fn sent(&mut self) -> Step {
        let stream = self.device.stream::<ToDevice>("sent");
        let stream = if self.chance.once_in(2) { stream.strict() } else { stream };
        let bytes = self.bytes();
        let it = stream.copy_of(&vec![7; bytes])?.map()?;
        self.tell(Some(it.iova()), bytes);
        Ok(Some(Held::Sent(it)))
    }

    fn received(&mut self) -> Step {
        let stream = self.device.stream::<FromDevice>("received");
        let stream = if self.chance.once_in(2) { stream.strict() } else { stream };
        let bytes = self.bytes();
        let it = stream.buffer(bytes)?.map()?;
        self.tell(Some(it.iova()), bytes);
        Ok(Some(Held::Received(it)))
    }

    fn list(&mut self) -> Step {
        let stream = self.device.stream::<Bidirectional>("list");
        let mut list = ScatterList::new(&stream);
        for _ in 0..1 + self.chance.below(5) {
            let bytes = self.bytes();
            list.push(stream.buffer(bytes)?)?;
        }
        let list = list.map()?;
        self.tell(list.segments().first().map(|it| it.iova), 4096);
        Ok(Some(Held::List(list)))
    }

    fn gather(&mut self) -> Step {
        let stream = self.device.stream::<ToDevice>("gathered").strict();
        let mut gather = stream.gather(16);
        for _ in 0..1 + self.chance.below(3) {
            let buffer = stream.copy_of(b"gathered")?.map()?;
            self.tell(Some(buffer.iova()), 4096);
            gather.unmap_later(buffer)?;
        }
        Ok(Some(Held::Gather(gather, stream)))
    }

    fn domain(&mut self) -> Step {
        let buffer = self.device.allocate(8192, None, "in a domain")?;
        let at = Iova::new(0x4000_0000 + 0x10_0000 * self.chance.below(8) as u64);
        let domain = self.device.new_domain("domain").create()?;
        let access = self.access();
        let all = MapRequest { buffer: &buffer, offset: 0, bytes: 8192, access };
        domain.map_at(at, &[all])?;
        self.tell(Some(at), 8192);
        let entered = if self.chance.once_in(2) { domain.attach(&self.device).ok() } else { None };
        Ok(Some(Held::Domain(domain, buffer, entered)))
    }

    /// Memory of its own, for the other's device too.
    fn give(&mut self, other: &Device) -> Step {
        let buffer = self.device.allocate(8192, Some(Access::ReadWrite), "given")?;
        self.tell(buffer.iova(), 8192);
        let access = self.access();
        self.given.push(buffer.attach(other, access, "got")?);
        Ok(Some(Held::Buffer(buffer)))
    }

    /// The other's memory, for its own device too.
    fn get(&mut self, others: &Buffer) -> Step {
        let it = others.attach(&self.device, Access::Read, "lent")?;
        let iova = it.io_address().for_device(&self.device)?;
        self.tell(Some(iova), 4096);
        Ok(Some(Held::Attached(it)))
    }

    fn registered(&mut self, pages: &mut Pages) -> Step {
        let Some(memory) = pages.take() else { return Ok(None) };
        // SAFETY: the pages are nobody's until everything of this driver is gone, and the device's as well.
        let memory = unsafe { ForeignMemory::from_range(memory) }?;
        let access = self.access();
        let it = self.device.register(memory, Some(access), "registered")?;
        self.tell(it.iova(), it.len());
        Ok(Some(Held::Buffer(it)))
    }

    /// Goes on with something that it has.
    fn go_on(&mut self) -> Step {
        let Some(held) = self.chance.take(&mut self.held) else { return Ok(None) };
        match held {
            Held::Kept(buffer) => {
                let mut found = [0; PATTERN.len()];
                buffer.read(64, &mut found)?;
                assert_eq!(found, PATTERN, "a device wrote where it never was let");
                Ok(None)
            }
            Held::Mapped(buffer, mapped) => {
                self.device.unmap(&mapped)?;
                Ok(Some(Held::Buffer(buffer)))
            }
            Held::Pool(pool, mut blocks) => {
                blocks.truncate(blocks.len() / 2);
                blocks.push(pool.alloc_zeroed()?);
                self.tell(blocks.last().map(PoolBlock::iova), 256);
                Ok(Some(Held::Pool(pool, blocks)))
            }
            Held::Sent(buffer) => {
                let again = buffer.unmap()?.map()?;
                self.tell(Some(again.iova()), again.len());
                Ok(Some(Held::Sent(again)))
            }
            Held::Received(buffer) => {
                drop(buffer.unmap()?);
                Ok(None)
            }
            Held::List(list) => {
                let again = list.unmap()?.map()?;
                Ok(Some(Held::List(again)))
            }
            Held::Gather(mut gather, stream) => {
                gather.flush()?;
                Ok(Some(Held::Gather(gather, stream)))
            }
            Held::Domain(domain, buffer, entered) => {
                match entered {
                    Some(entered) => entered.leave()?,
                    None => return Ok(Some(Held::Domain(domain, buffer, None))),
                }
                Ok(Some(Held::Buffer(buffer)))
            }
            Held::Coherent(_) | Held::Buffer(_) | Held::Unmapped(_) => Ok(None),
            Held::Attached(_) | Held::Handle(_) => Ok(None),
        }
    }
}
