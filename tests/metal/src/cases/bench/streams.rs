//! Streaming memory of libdma's, whose service is called directly: in windows, and strict.

use alloc::format;
use alloc::vec::Vec;
use core::mem;

use dma_types::{Iova, PAGE_SIZE};
use libdma::stream::DeviceOwned;
use libdma::{Device, Error, FromDevice, ScatterList, Stream, StreamBuffer, ToDevice};

use super::ending::Probe;
use super::measure::{Order, Pairs, ROUNDS, WARM_UP, unchanged};
use crate::cases::engine::rig::with_service;
use crate::harness::{Context, Failure, Outcome};

const PAGE: usize = PAGE_SIZE as usize;

/// Runs a case for a stream of windows and for a strict one, and tells them apart by name.
fn with_streams(
    context: &mut Context,
    case: impl Fn(&Probe<'_>, &'static str, Stream<FromDevice>) -> Outcome,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let probe = Probe::new(rig, &device)?;
        for (kind, stream) in both(&device) {
            case(&probe, kind, stream)?;
        }
        Ok(())
    })
}

fn both(device: &Device) -> [(&'static str, Stream<FromDevice>); 2] {
    [
        ("stream", device.stream::<FromDevice>("window")),
        ("strict", device.stream::<FromDevice>("strict").strict()),
    ]
}

/// One buffer, mapped and unmapped.
pub(super) fn streams(context: &mut Context) -> Outcome {
    with_streams(context, |probe, kind, stream| {
        for (name, bytes) in [("4k", PAGE), ("64k", 64 << 10), ("2m", 2 << 20)] {
            let (name, idle) = (format!("{kind}/{name}"), stream.buffer(bytes)?);
            let idle = probe.of(&name, idle, |it| it.map(), |it| it.iova(), |it| it.unmap())?;
            Pairs::of(idle, |it| it.map(), |it| it.unmap())?.tell(&name);
        }
        Ok(())
    })
}

/// Memory of the driver's own, of which the device reads or writes a copy; and what copying takes, once.
pub(super) fn bounced(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let (stream, back) =
            (device.stream::<ToDevice>("bounced"), device.stream::<FromDevice>("back"));
        let probe = Probe::new(rig, &device)?;
        let data = [0x5a; PAGE];
        let mut own = data;
        let mut empty = stream.buffer(PAGE)?;
        Pairs::of((), |()| empty.write(0, &data[..0]), unchanged)?.tell("copy/0");
        for bytes in [64, 1500, PAGE] {
            let mut pairs = Pairs::new(WARM_UP + ROUNDS);
            for round in 0..WARM_UP + ROUNDS {
                if round == WARM_UP {
                    pairs.forget();
                }
                let mapped = pairs.make.take(|| back.map_slice_mut(&mut own[..bytes]))?;
                pairs.undo.take(|| mapped.unmap())?;
            }
            let name = format!("bounced-back/{bytes}");
            let slice = &mut own[..bytes];
            let map = |slice| back.map_slice_mut(slice);
            probe.of(&name, slice, map, |it| it.iova(), |it| it.unmap())?;
            pairs.tell(&name);
            let data = &data[..bytes];
            let pairs = Pairs::of((), |()| stream.map_slice(data), |it| it.unmap())?;
            pairs.tell(&format!("bounced/{bytes}"));
            let mut place = stream.buffer(bytes)?;
            let pairs = Pairs::of((), |()| place.write(0, data), unchanged)?;
            pairs.tell(&format!("copy/{bytes}"));
        }
        Ok(())
    })
}

/// Sixteen pages as one list.
pub(super) fn lists(context: &mut Context) -> Outcome {
    with_streams(context, |probe, kind, stream| {
        let mut list = ScatterList::new(&stream);
        for _ in 0..16 {
            list.push(stream.buffer(PAGE)?)?;
        }
        let name = format!("{kind}/sg-16");
        let last = |list: &ScatterList<'_, _, DeviceOwned>| {
            list.segments().last().map_or(Iova::default(), |it| it.iova)
        };
        let list = probe.of(&name, list, |it| it.map(), last, |it| it.unmap())?;
        Pairs::of(list, |it| it.map(), |it| it.unmap())?.tell(&name);
        Ok(())
    })
}

/// The same, put together of buffers each time and taken apart again, which is counted, too: segments are made there.
pub(super) fn lists_anew(context: &mut Context) -> Outcome {
    with_streams(context, |_, kind, stream| {
        let buffers = (0..16).map(|_| stream.buffer(PAGE)).collect::<Result<Vec<_>, _>>()?;
        let (mut list, mut buffers) = (ScatterList::new(&stream), buffers);
        let mut pairs = Pairs::new(WARM_UP + ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                pairs.forget();
            }
            let mapped = pairs.make.take(|| {
                buffers.drain(..).try_for_each(|buffer| list.push(buffer))?;
                Ok::<_, Failure>(list.map()?)
            })?;
            list = pairs.undo.take(|| {
                let mut list = mapped.unmap()?;
                buffers.extend(list.clear());
                Ok::<_, Failure>(list)
            })?;
        }
        pairs.tell(&format!("{kind}/sg-16-anew"));
        Ok(())
    })
}

/// How many buffers a ring has.
const RING: usize = 128;

/// A ring whose oldest buffer is unmapped, and mapped again behind the others.
pub(super) fn rings(context: &mut Context) -> Outcome {
    with_streams(context, |_, kind, stream| {
        let mapped = |_| Ok::<_, Failure>(stream.buffer(PAGE)?.map()?);
        let mut ring = (0..RING)
            .map(mapped)
            .collect::<Outcome<Vec<_>>>()?
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>();
        let mut pairs = Pairs::new(WARM_UP + ROUNDS);
        for (round, place) in (0..RING).cycle().take(WARM_UP + ROUNDS).enumerate() {
            if round == WARM_UP {
                pairs.forget();
            }
            let Some(oldest) = ring[place].take() else { continue };
            let oldest = pairs.undo.take(|| oldest.unmap())?;
            ring[place] = Some(pairs.make.take(|| oldest.map())?);
        }
        pairs.tell(&format!("{kind}/ring-128"));
        Ok(())
    })
}

/// A buffer whose turn it is.
enum Turn {
    Idle(StreamBuffer<FromDevice>),
    Mapped(StreamBuffer<FromDevice, DeviceOwned>),
    Between,
}

/// How many sizes there are: 1 to so many pages.
const SIZES: usize = 32;

/// One buffer of each size, of which one at random is mapped, or unmapped if it is.
pub(super) fn mixed_sizes(context: &mut Context) -> Outcome {
    with_streams(context, |_, kind, stream| {
        let idle = |pages| Ok(Turn::Idle(stream.buffer(pages * PAGE)?));
        let mut all = (1..=SIZES).map(idle).collect::<Outcome<Vec<_>>>()?;
        let (mut order, mut pairs) = (Order::new(), Pairs::new(WARM_UP + 2 * ROUNDS));
        for round in 0..WARM_UP + 2 * ROUNDS {
            if round == WARM_UP {
                pairs.forget();
            }
            let turn = &mut all[order.below(SIZES)];
            *turn = match mem::replace(turn, Turn::Between) {
                Turn::Idle(it) => Turn::Mapped(pairs.make.take(|| it.map())?),
                Turn::Mapped(it) => Turn::Idle(pairs.undo.take(|| it.unmap())?),
                Turn::Between => continue,
            };
        }
        pairs.tell(&format!("{kind}/mixed-32"));
        Ok(())
    })
}

/// How many buffers are one request.
const BATCH: usize = 32;

/// Strict buffers that are mapped by one request, and unmapped by one.
pub(super) fn strict_batches(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let stream = device.stream::<FromDevice>("batch").strict();
        let idle = (0..BATCH).map(|_| stream.buffer(PAGE)).collect::<Result<Vec<_>, _>>()?;
        let probe = Probe::new(rig, &device)?;
        let unmap = |mapped: Vec<StreamBuffer<_, DeviceOwned>>| {
            let mut gather = stream.gather(BATCH);
            for buffer in mapped {
                gather.unmap_later(buffer)?;
            }
            Ok::<_, Error>(core::iter::from_fn(|| gather.take()).collect::<Vec<_>>())
        };
        let (name, map) = ("strict/batch-32", |idle| stream.map_all(idle));
        let last =
            |all: &Vec<StreamBuffer<_, _>>| all.last().map_or(Iova::default(), |it| it.iova());
        let idle = probe.of(name, idle, map, last, unmap)?;
        Pairs::of(idle, map, unmap)?.tell(name);
        Ok(())
    })
}
