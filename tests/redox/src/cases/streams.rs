//! Small memory, which lies in windows that stay mapped, and streams, which take turns with it or with pages of their own.

use std::array;

use agent::bench::faults;
use agent::failure::{Failure, Outcome, require};
use agent::reports::{self, wait_for_fault};
use agent::traces::Traces;
use edud::Direction;
use libdma::{Coherent, Error, FromDevice, ToDevice};

use crate::driving::{Courier, LENGTH, drive, expect};
use crate::machine::Machine;

/// How many words and buffers there are at once, each of which would be a page and a mapping.
const MANY: usize = 200;
/// How much goes to the device and back.
const PACKET: usize = 1000;
const ROUNDS: u8 = 3;

const MARK: [u8; LENGTH] = *b"while it may do ";
const OTHER: [u8; LENGTH] = *b"it may not do so";

/// Data goes to the device and back, and there are no more mappings than windows, however much there is in them.
pub(super) fn share_windows() -> Outcome {
    let bench = Machine::bench()?;
    let (before, mapped_before) = (Traces::now()?, reports::mappings()?.len());
    let blocked = faults()?;
    let mut driver = drive(&bench)?;
    let device = driver.device().clone();
    let words: Vec<Coherent<u64>> =
        (0..MANY).map(|_| device.coherent("word").value()).collect::<Result<_, Error>>()?;
    for (number, word) in (1..).zip(&words) {
        word.set(number);
    }
    let [first, .., last] = &words[..] else {
        return Err(Failure(format!("there are only {} words", words.len())));
    };
    driver.transfer(Direction::ToDevice, first.iova(), size_of::<u64>())?;
    driver.transfer(Direction::FromDevice, last.iova(), size_of::<u64>())?;
    for (number, word) in (1..).zip(&words) {
        let expected = if number == MANY as u64 { 1 } else { number };
        require!(word.get() == expected, "word {number} is {} and not {expected}", word.get());
    }
    let coherent = reports::mappings()?.len() - mapped_before;
    require!(coherent == 1, "{MANY} words are in {coherent} mappings");

    let (there, back) = (device.stream::<ToDevice>("there"), device.stream::<FromDevice>("back"));
    for round in 1..=ROUNDS {
        let sent: [u8; PACKET] = array::from_fn(|index| (index as u8).wrapping_mul(round) ^ round);
        let packet = there.copy_of(&sent)?.map()?;
        driver.transfer(Direction::ToDevice, packet.iova(), PACKET)?;
        drop(packet.unmap()?);
        let packet = back.buffer(PACKET)?.map()?;
        driver.transfer(Direction::FromDevice, packet.iova(), PACKET)?;
        let mut found = [0; PACKET];
        packet.unmap()?.read(0, &mut found)?;
        require!(found == sent, "what came back in round {round} is not what was sent");
    }
    let once = reports::mappings()?.len() - mapped_before;
    let mut packets = Vec::new();
    for _ in 0..MANY / 2 {
        packets.push((there.buffer(LENGTH)?.map()?, back.buffer(LENGTH)?.map()?));
    }
    let many = reports::mappings()?.len() - mapped_before;
    let windows: usize = device.window_usage().iter().map(|kind| kind.windows).sum();
    require!((once, many) == (windows, windows), "{once}, then {many} mappings: {windows} windows");
    require!(faults()? == blocked, "something was blocked");

    drop((words, packets, there, back, device, driver));
    before.wait_for_return()
}

/// What was unmapped the device can write to no more, when the unmap has returned.
pub(super) fn strict() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let mut courier = Courier::new(drive(&bench)?)?;
    let stream = courier.driver.device().stream::<FromDevice>("strict").strict();
    let buffer = stream.buffer(LENGTH)?;
    require!(!buffer.is_in_window(), "it lies in a window, which stays mapped");
    let mapped = buffer.map()?;
    let place = mapped.iova();
    courier.carry(&MARK, place)?;
    let mut buffer = mapped.unmap()?;
    let mut found = [0; LENGTH];
    buffer.read(0, &mut found)?;
    expect(found, &MARK, "the buffer that was mapped")?;
    buffer.write(0, &OTHER)?;
    courier.put(place)?;
    wait_for_fault(bench.tells, &bench.device, "write", place.get())?;
    buffer.read(0, &mut found)?;
    expect(found, &OTHER, "the buffer that was unmapped")?;

    drop((buffer, stream, courier));
    before.wait_for_return()
}
