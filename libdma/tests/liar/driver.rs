//! What the driver does, and what must be true of what it gets.

use fuzz::Chance;
use libdma::protocol::Rights;
use libdma::{
    Access, Bidirectional, Buffer, Device, Error, FromDevice, Iova, MapRequest, Mapped,
    ScatterList, SharedBuffer, ToDevice,
};

/// How much it keeps.
const MOST: usize = 12;

const PAGE: u64 = 4096;

/// A driver of two devices.
pub(crate) struct Driver {
    device: Device,
    other: Device,
    buffers: Vec<Buffer>,
    shared: Vec<SharedBuffer>,
}

/// What was mapped is as it was asked for: `bytes` long, and not beyond `last`.
fn check(iova: Iova, bytes: u64, last: Iova) {
    let end = iova.get().checked_add(bytes - 1);
    let end = end.unwrap_or_else(|| panic!("{iova} and {bytes:#x} bytes more run over"));
    assert!(end <= last.get(), "{iova} and {bytes:#x} bytes more are beyond {last}");
}

/// The same of whole pages.
fn check_pages(mapped: &[Mapped], pieces: &[MapRequest<'_>], last: Iova) {
    assert_eq!(mapped.len(), pieces.len());
    for (mapped, piece) in mapped.iter().zip(pieces) {
        assert_eq!(mapped.bytes(), piece.bytes);
        assert!(mapped.iova().get().is_multiple_of(PAGE), "{}", mapped.iova());
        check(mapped.iova(), piece.bytes, last);
    }
}

impl Driver {
    pub(crate) fn new(device: Device, other: Device) -> Self {
        Self { device, other, buffers: Vec::new(), shared: Vec::new() }
    }

    /// Its device reaches so far.
    pub(crate) fn set_mask(&mut self, chance: &mut Chance) {
        let _ = self.device.set_dma_mask(chance.one_of(&[32, 40, 64]));
    }

    /// Does something.
    pub(crate) fn step(&mut self, chance: &mut Chance) -> Result<(), Error> {
        match chance.below(14) {
            0 | 1 => self.allocate(chance),
            2 => self.unmapped(chance),
            3 => self.coherent(chance),
            4 => self.pool(chance),
            5 => self.streams(chance),
            6 => self.scatters(chance),
            7 | 8 => self.batches(chance),
            9 => self.domain(chance),
            10 => self.shares(chance),
            11 => self.restricts(chance),
            12 => self.asks(chance),
            _ => self.forgets(chance),
        }
    }

    fn last(&self) -> Iova {
        self.device.highest_address()
    }

    fn allocate(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let bytes = (1 + chance.below(5)) as u64 * PAGE;
        let access = chance.one_of(&[None, Some(Access::Read), Some(Access::ReadWrite)]);
        let buffer = self.device.allocate(bytes, access, "some")?;
        assert!(buffer.len() as u64 >= bytes, "{} instead of {bytes}", buffer.len());
        assert_eq!(buffer.iova().is_some(), access.is_some());
        if let Some(iova) = buffer.iova() {
            assert!(iova.get().is_multiple_of(PAGE));
            check(iova, buffer.len() as u64, self.last());
        }
        buffer.write(0, &vec![7; buffer.len()])?;
        self.buffers.push(buffer);
        self.buffers.truncate(MOST);
        Ok(())
    }

    fn unmapped(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let bytes = (1 + chance.below(5)) as u64 * PAGE;
        let builder = self.device.buffer("unmapped").access(Access::Write);
        let buffer = builder.allocate_unmapped(bytes)?;
        assert!(buffer.bytes() >= bytes);
        check(buffer.iova().unwrap(), buffer.bytes(), self.last());
        let seen = SharedBuffer::from_handle(buffer.share(Rights::READ | Rights::INSPECT)?)?;
        let mut all = vec![0; seen.len().min(1 << 20)];
        seen.read(0, &mut all)?;
        self.shared.push(seen);
        self.shared.truncate(MOST);
        Ok(())
    }

    fn coherent(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let bytes = 1 + chance.below(9000);
        let builder = self.device.coherent("ring");
        let builder = if chance.once_in(3) { builder.alone() } else { builder };
        let ring = builder.bytes(bytes)?;
        check(ring.iova(), bytes as u64, self.device.highest_coherent_address());
        ring.copy_from(0, &vec![3; bytes])?;
        let mut seen = vec![0; bytes];
        ring.copy_to(0, &mut seen)
    }

    fn pool(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let bytes = 8 + chance.below(300);
        let pool = self.device.pool("commands").align(8).bytes(bytes)?;
        let mut blocks = Vec::new();
        for _ in 0..chance.below(40) {
            let block = pool.alloc()?;
            check(block.iova(), bytes as u64, self.device.highest_coherent_address());
            blocks.push(block);
        }
        drop(blocks);
        pool.shrink();
        Ok(())
    }

    fn streams(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let bytes = 1 + chance.below(20_000);
        let data = vec![5; bytes];
        let stream = self.device.stream::<ToDevice>("out");
        let stream = if chance.once_in(2) { stream.strict() } else { stream };
        let mapped = stream.copy_of(&data)?.map()?;
        check(mapped.iova(), bytes as u64, self.last());
        let _ = mapped.unmap()?;
        let mut inward = vec![0; bytes];
        let stream = self.device.stream::<FromDevice>("in");
        let bounced = stream.map_slice_mut(&mut inward)?;
        check(bounced.iova(), bytes as u64, self.last());
        bounced.unmap()?;
        if let Some(buffer) = self.buffers.pop() {
            let bytes = buffer.len() as u64;
            let adopted = self.device.stream::<Bidirectional>("own").adopt(buffer).map()?;
            check(adopted.iova(), bytes, self.last());
        }
        Ok(())
    }

    fn scatters(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let stream = self.device.stream::<Bidirectional>("list");
        let stream = if chance.once_in(2) { stream.strict() } else { stream };
        let mut list = ScatterList::new(&stream);
        let mut bytes = 0;
        for _ in 0..1 + chance.below(4) {
            let piece = 1 + chance.below(70_000);
            list.push(stream.buffer(piece)?)?;
            bytes += piece as u64;
        }
        let list = list.map()?;
        assert_eq!(list.segments().iter().map(|it| it.bytes).sum::<u64>(), bytes);
        for segment in list.segments() {
            check(segment.iova, segment.bytes, self.last());
        }
        let _ = list.unmap()?;
        Ok(())
    }

    fn batches(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let Some(buffer) = self.buffers.last() else { return Ok(()) };
        let piece = MapRequest { buffer, offset: 0, bytes: PAGE, access: Access::ReadWrite };
        let pieces = vec![piece; 1 + chance.below(6)];
        let mapped = match chance.below(3) {
            0 => self.device.map(&pieces)?,
            1 => {
                let mapped = self.device.map_together(&pieces)?;
                in_a_row(&mapped);
                mapped
            }
            _ => {
                let iova = Iova::new(0x4000_0000 + chance.below(64) as u64 * PAGE);
                let mapped = self.device.map_at(iova, &pieces)?;
                assert_eq!(mapped.first().map(|it| it.iova()), Some(iova));
                in_a_row(&mapped);
                mapped
            }
        };
        check_pages(&mapped, &pieces, self.last());
        self.device.lookup(mapped[0].iova())?;
        self.device.unmap(&mapped)
    }

    fn domain(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let domain = self.device.new_domain("fixed").create()?;
        if let Some(buffer) = self.buffers.last() {
            let piece = MapRequest { buffer, offset: 0, bytes: PAGE, access: Access::Read };
            let mapped = domain.map_at(Iova::new(0x8000_0000), &[piece])?;
            assert_eq!(mapped[0].iova(), Iova::new(0x8000_0000));
            domain.lookup(mapped[0].iova())?;
            if chance.once_in(2) {
                domain.unmap(&mapped)?;
            }
        }
        let ticket = domain.ticket()?;
        let entered = match chance.once_in(2) {
            true => domain.attach(&self.device)?,
            false => self.other.enter(&ticket)?,
        };
        match chance.once_in(2) {
            true => Ok(entered.leave()?),
            false => Ok(()),
        }
    }

    fn shares(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let Some(buffer) = self.buffers.last() else { return Ok(()) };
        let attached = buffer.attach(&self.other, Access::Read, "to encode")?;
        check(
            attached.io_address().for_device(&self.other).unwrap(),
            attached.bytes(),
            self.other.highest_address(),
        );
        if chance.once_in(3) {
            buffer.revoke_shares()?;
        }
        Ok(())
    }

    fn restricts(&mut self, chance: &mut Chance) -> Result<(), Error> {
        let (handle, revocable) = self.device.restricted("less").mappings(3).hand_out()?;
        let handed = Device::from_handle(handle)?;
        let buffer = handed.allocate(4096, Some(Access::Read), "theirs")?;
        if chance.once_in(2) {
            revocable.revoke()?;
        }
        drop((buffer, handed));
        Ok(())
    }

    fn asks(&mut self, chance: &mut Chance) -> Result<(), Error> {
        self.device.events()?.faults().for_each(drop);
        match chance.below(6) {
            0 => self.device.reset()?,
            1 => drop(self.device.renew()?),
            2 => drop(self.device.trim()),
            3 => self.set_mask(chance),
            _ => self.device.resume()?,
        }
        let _ = (self.device.window_usage(), format!("{:?}", self.device));
        Ok(())
    }

    fn forgets(&mut self, chance: &mut Chance) -> Result<(), Error> {
        if !self.buffers.is_empty() {
            drop(self.buffers.swap_remove(chance.below(self.buffers.len())));
        }
        drop(self.shared.pop());
        Ok(())
    }
}

/// One behind the other.
fn in_a_row(mapped: &[Mapped]) {
    for pair in mapped.windows(2) {
        assert_eq!(pair[0].iova().get() + pair[0].bytes(), pair[1].iova().get());
    }
}
