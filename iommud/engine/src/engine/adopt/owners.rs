//! What the service knows of what was there: whose is what.

use alloc::vec::Vec;

use dma_types::{Iova, PciAddress};

use crate::domain::DomainKey;
use crate::ledger::Slot;
use crate::platform::{RunId, RunPlace, Segment};

/// What of a predecessor's belongs to somebody.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// The devices that somebody holds.
    pub held: Vec<HeldDevice>,
    /// The devices that are kept from everything.
    pub blocked: Vec<BlockedDevice>,
    /// The domains that clients have made.
    pub explicit: Vec<DomainKey>,
    /// The buffers.
    pub buffers: Vec<OwnedBuffer>,
    /// The parts of other devices' BARs.
    pub peer_bars: Vec<OwnedPeerBar>,
    /// What is nobody's any more.
    pub left: Vec<LeftRun>,
}

/// A device that is [kept from everything](crate::engine::blocking).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedDevice {
    /// The device.
    pub device: PciAddress,
    /// Whether it mastered the bus before.
    pub was_master: bool,
}

/// A device that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldDevice {
    /// The device.
    pub device: PciAddress,
    /// The domain in which it is if it is in no explicit one.
    pub own: DomainKey,
}

/// A buffer.
#[derive(Clone, Debug)]
pub struct OwnedBuffer {
    /// Its number.
    pub number: u64,
    /// Its memory, which other buffers may be of too.
    pub run: RunId,
    /// Where that is.
    pub place: RunPlace,
    /// How much of it.
    pub bytes: u64,
    /// The domains in which it may be mapped.
    pub domains: Vec<DomainKey>,
    /// Where it was mapped first: of several buffers of the same memory, what is there is of this one.
    pub first: Option<Iova>,
}

/// Memory that had not come back when the daemon died, and that nobody can claim. A client may have it mapped.
#[derive(Clone, Copy, Debug)]
pub struct LeftRun {
    /// It, which no buffer is of.
    pub run: RunId,
    /// Where it is.
    pub place: RunPlace,
    /// How much of it.
    pub bytes: u64,
    /// The record of it: the engine strikes it out when the memory is free.
    pub record: Slot,
}

/// A part of another device's BAR.
#[derive(Clone, Copy, Debug)]
pub struct OwnedPeerBar {
    /// Its number, which no buffer has.
    pub number: u64,
    /// The domain in which it is mapped.
    pub domain: DomainKey,
    /// Where.
    pub iova: Iova,
    /// The registers.
    pub place: Segment,
}
