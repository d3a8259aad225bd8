//! The command buffer in memory (2.4): a [`Ring`].
//!
//! That all before it is done is told by completion waits, which write a number into its status frame.

use dma_types::PhysAddr;

use super::command::Command;
use super::registers::{
    CommandBufferBase, CommandBufferHead, CommandBufferTail, RegisterFile, RingBase, RingPlace,
};
use crate::completion::Ticket;
use crate::platform::{Platform, Registers, TableFrames};
use crate::unit::{Mark, Ring};

/// The command buffer of one unit.
#[derive(Debug)]
pub struct CommandBuffer(Ring);

impl CommandBuffer {
    /// An empty buffer, or `None` if there are no frames for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        Ring::new(frames).map(Self)
    }

    /// Gives its frames back. Only for a buffer that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        self.0.free(frames);
    }

    /// Tells a unit whose command buffer is off where it is, and starts it anew: what is in it is gone.
    pub fn install(&mut self, platform: &mut impl Registers, registers: &RegisterFile) {
        self.0.restart();
        let base = RingBase::new().with_start(self.0.requests());
        registers.write(platform, CommandBufferBase(base));
        registers.write(platform, CommandBufferHead(RingPlace::new()));
        registers.write(platform, CommandBufferTail(RingPlace::new()));
    }

    /// Where completion waits are to write.
    #[inline]
    pub fn status_address(&self) -> PhysAddr {
        self.0.status_address()
    }

    /// Puts a command in the buffer; false if it is full.
    pub fn push(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) -> bool {
        if self.0.is_full() {
            self.make_room(platform, registers);
        }
        let mark: Mark = |number, place| Command::storing(number.into(), place).words();
        self.0.push(platform, command.words(), mark)
    }

    #[cold]
    fn make_room(&mut self, platform: &mut impl Platform, registers: &RegisterFile) {
        // A unit that was told of nothing makes no room.
        self.announce(platform, registers);
        self.0.look(platform);
    }

    /// Tells the unit of what was put in the buffer since.
    pub fn announce(&mut self, platform: &mut impl Registers, registers: &RegisterFile) {
        if let Some(tail) = self.0.announcement() {
            registers.write(platform, CommandBufferTail(RingPlace::at(tail)));
        }
    }

    /// Puts a command in the buffer with the completion wait for it behind it, and tells the unit. `false` if it is not so
    /// simple: then nothing is done.
    #[inline]
    pub fn ask(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
        ticket: Ticket,
    ) -> bool {
        let wait = Command::storing(ticket.0, self.status_address());
        let tail = self.0.push_two(platform, command.words(), wait.words());
        if let Some(tail) = tail {
            registers.write(platform, CommandBufferTail(RingPlace::at(tail)));
        }
        tail.is_some()
    }

    /// The number that the last finished completion wait wrote.
    #[inline]
    pub fn status(&self, frames: &impl TableFrames) -> Ticket {
        Ticket(self.0.status(frames))
    }
}
