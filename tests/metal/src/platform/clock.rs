//! The time: the processor's counter, its rate measured once against ACPI's timer.
//!
//! In QEMU the counter is the host's, some GHz, or, under `-icount shift=0,sleep=off`, the number of
//! instructions, which there is also the number of nanoseconds. Both are steady. Measuring tells which.

use core::arch::x86_64::{_mm_lfence, _rdtsc};

use iommu_engine::platform::Instant;
use x86_64::instructions::port::PortReadOnly;

/// How long the counter is measured, in ticks of the timer: 10 ms.
const MEASURED: u32 = Timer::PER_SECOND / 100;
/// How often the two are read together. The closest pair counts: the host may take a while in the others.
const READINGS: u32 = 8;

/// ACPI's power-management timer (ACPI specification 6.5, section 4.8.3.3).
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    port: u16,
}

impl Timer {
    /// Its rate in Hz.
    pub const PER_SECOND: u32 = 3_579_545;

    /// The timer, of which 24 bits always count: it starts anew after 4.6 s.
    fn read(self) -> u32 {
        // SAFETY: reading the timer changes nothing.
        unsafe { PortReadOnly::<u32>::new(self.port).read() & 0x00ff_ffff }
    }

    /// Ticks from one reading to a later one, less than 4.6 s apart.
    fn between(earlier: u32, later: u32) -> u32 {
        later.wrapping_sub(earlier) & 0x00ff_ffff
    }

    /// The two counters at one moment: this one's and the processor's.
    pub fn with_counter(self) -> (u32, u64) {
        let reading = |_| {
            let before = counter();
            let ticks = self.read();
            (counter() - before, ticks, before)
        };
        let closest = (0..READINGS).map(reading).min_by_key(|(apart, ..)| *apart);
        closest.map_or((0, 0), |(apart, ticks, before)| (ticks, before + apart / 2))
    }

    /// How many nanoseconds lie between two readings, less than 4.6 s apart.
    pub fn nanoseconds(earlier: u32, later: u32) -> u64 {
        u64::from(Self::between(earlier, later)) * 1_000_000_000 / u64::from(Self::PER_SECOND)
    }
}

/// The clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    timer: Timer,
    /// The counter when the clock was made.
    start: u64,
    /// How long a count lasts, in 2^-32 ns.
    count: u64,
}

impl Clock {
    /// Makes the clock, with the timer at this port. Takes 10 ms.
    pub fn new(port: u16) -> Self {
        let timer = Timer { port };
        let (from, start) = timer.with_counter();
        let (to, end) = loop {
            let now = timer.with_counter();
            if Timer::between(from, now.0) >= MEASURED {
                break now;
            }
            spin();
        };
        let nanoseconds = u128::from(Timer::nanoseconds(from, to)) << 32;
        Self { timer, start, count: (nanoseconds / u128::from(end - start).max(1)) as u64 }
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        let counts = u128::from(counter() - self.start);
        Instant::from_nanos(((counts * u128::from(self.count)) >> 32) as u64)
    }

    /// The timer that it was measured against.
    pub fn timer(&self) -> Timer {
        self.timer
    }
}

/// Lets some time pass without touching a device: under `-icount` it only passes in instructions, and an
/// access to a device costs the emulator as much as thousands of them.
pub fn spin() {
    for round in 0..1000 {
        core::hint::black_box(round);
    }
}

/// The processor's counter, when everything before is done.
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has these instructions, and they change no memory.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}
