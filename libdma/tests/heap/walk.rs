//! A walk through everything at random: what is held keeps its bytes, whatever else is made, given back and forgotten.

use std::mem;

use libdma::stream::DeviceOwned;
use libdma::{
    Access, Bidirectional, BusAddress, Coherent, Device, Pool, PoolBlock, Stream, StreamBuffer,
};

use crate::iommud::Iommud;

/// Numbers that look random: Knuth's, The Art of Computer Programming 2, 3.3.4, table 1.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}

/// Something that is held, with the byte that all of it has.
enum Held {
    Coherent(Coherent<[u8]>, u8),
    Block(PoolBlock<[u8]>, u8),
    Left(BusAddress, u8),
    Stream(StreamBuffer<Bidirectional, DeviceOwned>, u8),
}

const BLOCK: usize = 40;

struct Walk {
    device: Device,
    pool: Pool<[u8]>,
    stream: Stream<Bidirectional>,
}

impl Walk {
    fn make(&self, which: usize, bytes: usize, with: u8) -> Held {
        match which {
            0 => {
                let memory = self.device.coherent("coherent").bytes(bytes).unwrap();
                memory.copy_from(0, &vec![with; bytes]).unwrap();
                Held::Coherent(memory, with)
            }
            1 | 2 => {
                let block = self.pool.alloc().unwrap();
                block.write(0, &[with; BLOCK]).unwrap();
                if which == 1 {
                    Held::Block(block, with)
                } else {
                    Held::Left(block.into_address(), with)
                }
            }
            3 => {
                let buffer = self.stream.copy_of(&vec![with; bytes]).unwrap();
                Held::Stream(buffer.map().unwrap(), with)
            }
            _ => {
                let mut buffer = self.stream.clone().strict().buffer(bytes).unwrap();
                buffer.write(0, &vec![with; bytes]).unwrap();
                Held::Stream(buffer.map().unwrap(), with)
            }
        }
    }

    /// Looks whether it has its bytes still, as the device sees it and as the CPU does, and gives it back.
    fn end(&self, iommud: &Iommud, held: Held) {
        let same = |bytes: &[u8], with: u8| assert!(bytes.iter().all(|it| *it == with));
        match held {
            Held::Coherent(memory, with) => {
                same(&iommud.device_reads(memory.iova(), memory.len()).unwrap(), with);
                let mut out = vec![0; memory.len()];
                memory.copy_to(0, &mut out).unwrap();
                same(&out, with);
            }
            Held::Block(block, with) => {
                let mut out = [0; BLOCK];
                block.read(0, &mut out).unwrap();
                same(&out, with);
            }
            Held::Left(address, with) => {
                same(&iommud.device_reads(address.iova(), BLOCK).unwrap(), with);
                let block = self.pool.take(address).unwrap();
                let mut out = [0; BLOCK];
                block.read(0, &mut out).unwrap();
                same(&out, with);
            }
            Held::Stream(buffer, with) => {
                same(&iommud.device_reads(buffer.iova(), buffer.len()).unwrap(), with);
                let mut out = vec![0; buffer.len()];
                buffer.unmap().unwrap().read(0, &mut out).unwrap();
                same(&out, with);
            }
        }
    }
}

#[test]
fn what_is_held_keeps_its_bytes() {
    let steps = if cfg!(miri) { 40 } else { 1000 };
    for seed in 0..3 {
        let iommud = Iommud::new(seed != 1);
        let device = iommud.open();
        let pool = device.pool("blocks").access(Access::ReadWrite).bytes(BLOCK).unwrap();
        let stream = device.stream("both");
        let (walk, mut numbers) = (Walk { device, pool, stream }, Numbers(seed));
        let mut held = Vec::new();
        for step in 0..steps {
            let most = [1, 64, 65, 4096, 20_000][numbers.below(5)];
            let bytes = 1 + numbers.below(most);
            held.push(walk.make(numbers.below(5), bytes, step as u8));
            while held.len() > 12 || numbers.below(3) == 0 && !held.is_empty() {
                let one = held.swap_remove(numbers.below(held.len()));
                match numbers.below(16) {
                    0 => mem::forget(one),
                    1 => {
                        walk.pool.shrink();
                        walk.device.trim();
                        held.push(one);
                        break;
                    }
                    _ => walk.end(&iommud, one),
                }
            }
        }
        held.into_iter().for_each(|one| walk.end(&iommud, one));
    }
}
