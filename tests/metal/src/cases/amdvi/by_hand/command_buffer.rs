//! Giving the unit commands.

use core::time::Duration;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Platform;

use super::commands::{Command, completion_wait};
use super::registers::register;
use super::tables::{word, write_word};
use super::unit::Unit;
use crate::harness::Outcome;
use crate::platform::clock::spin;
use crate::require;

/// How many commands a command buffer of one frame has, the smallest there is.
pub const COMMANDS: usize = PAGE_SIZE as usize / size_of::<Command>();

/// How long the unit may take over anything.
const PATIENCE: Duration = Duration::from_secs(1);

/// The unit's command buffer, of one frame.
#[derive(Debug)]
pub struct Commands {
    pub(super) unit: Unit,
    pub(super) frame: PhysAddr,
    /// Where the next command goes.
    pub(super) tail: usize,
    /// How many waits there were. Each stores its number.
    pub(super) waits: u64,
}

impl Commands {
    /// Gives the unit these commands, and waits until it has done them. `place` is a word for the unit to say so.
    pub fn run(
        &mut self,
        platform: &mut impl Platform,
        commands: &[Command],
        place: PhysAddr,
    ) -> Outcome {
        self.waits += 1;
        let wait = completion_wait(place, self.waits);
        for command in commands.iter().chain([&wait]) {
            for (half, word) in command.iter().enumerate() {
                write_word(platform, self.frame, 2 * self.tail + half, *word)?;
            }
            self.tail = (self.tail + 1) % COMMANDS;
        }
        let bytes = (self.tail * size_of::<Command>()) as u64;
        platform.write64(self.unit.window, register::COMMAND_TAIL, bytes);
        let start = platform.now();
        while word(platform, place)? != self.waits {
            require!(platform.now().since(start) < PATIENCE, "the commands are not done");
            spin();
        }
        Ok(())
    }
}
