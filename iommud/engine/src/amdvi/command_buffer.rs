//! The command buffer in memory (2.4).
//!
//! One frame: 256 commands of 16 bytes, of which 255 can be there at once. That all before it is done is told by
//! completion waits, which write a number into a status frame beside it.

use core::sync::atomic::Ordering;

use dma_types::PhysAddr;

use super::command::Command;
use super::registers::{
    CommandBufferBase, CommandBufferHead, CommandBufferTail, RegisterFile, RingBase, RingPlace,
};
use crate::completion::Ticket;
use crate::platform::{Platform, Registers, TableFrames};

/// Commands in the buffer's one frame.
const LENGTH: u16 = 256;

/// The command buffer of one unit.
#[derive(Debug)]
pub struct CommandBuffer {
    commands: PhysAddr,
    status: PhysAddr,
    /// Where the next command goes.
    tail: u16,
    /// Where the unit was when it was last looked at: what it has not read must not be overwritten.
    head: u16,
    /// Whether the unit has been told of everything up to `tail`.
    announced: bool,
}

impl CommandBuffer {
    /// An empty buffer, or `None` if there are no frames for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        let commands = frames.alloc_frame()?;
        let Some(status) = frames.alloc_frame() else {
            frames.free_frame(commands);
            return None;
        };
        Some(Self { commands, status, tail: 0, head: 0, announced: true })
    }

    /// Gives its frames back. Only for a buffer that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        frames.free_frame(self.commands);
        frames.free_frame(self.status);
    }

    /// Tells a unit whose command buffer is off where it is, and starts it anew: what is in it is gone.
    pub fn install(&mut self, platform: &mut impl Registers, registers: &RegisterFile) {
        (self.tail, self.head, self.announced) = (0, 0, true);
        registers.write(platform, CommandBufferBase(RingBase::new().with_start(self.commands)));
        registers.write(platform, CommandBufferHead(RingPlace::new()));
        registers.write(platform, CommandBufferTail(RingPlace::new()));
    }

    /// Where completion waits are to write.
    pub fn status_address(&self) -> PhysAddr {
        self.status
    }

    /// Puts a command in the buffer; false if it is full.
    pub fn push(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) -> bool {
        let next = (self.tail + 1) % LENGTH;
        if next == self.head {
            // A unit that was told of nothing makes no room.
            self.announce(platform, registers);
            let CommandBufferHead(head) = registers.read(platform);
            // QEMU has the end of the buffer here before it goes back to the start.
            let head = head.entry() % LENGTH;
            if next == head {
                return false;
            }
            self.head = head;
        }
        let Some(table) = platform.table(self.commands) else { return false };
        let word = usize::from(self.tail) * 2;
        for (place, value) in table[word..].iter().zip(command.words()) {
            place.store(value, Ordering::Relaxed);
        }
        self.tail = next;
        self.announced = false;
        true
    }

    /// Tells the unit of what was put in the buffer since.
    pub fn announce(&mut self, platform: &mut impl Registers, registers: &RegisterFile) {
        if self.announced {
            return;
        }
        self.announced = true;
        // The commands, and the tables that they are about, must be seen before the tail.
        core::sync::atomic::fence(Ordering::SeqCst);
        registers.write(platform, CommandBufferTail(RingPlace::new().with_entry(self.tail)));
    }

    /// The number that the last finished completion wait wrote.
    pub fn status(&self, frames: &impl TableFrames) -> Ticket {
        Ticket(frames.table(self.status).map_or(0, |table| table[0].load(Ordering::Acquire)))
    }
}
