//! The interrupts that a unit sends of its own: fault events and invalidation completion events.

use super::registers::EventControl;
use crate::request::Message;

/// The four event registers (control, data, address, upper address): FECTL.. at 10.4.10 and IECTL.. at
/// 10.4.25. Masked on reset.
#[derive(Debug)]
pub(crate) struct Event {
    control: EventControl,
    data: u32,
    address: u32,
    upper_address: u32,
}

impl Default for Event {
    fn default() -> Self {
        let control = EventControl::new().with_masked(true);
        Self { control, data: 0, address: 0, upper_address: 0 }
    }
}

impl Event {
    /// Reads the register at `offset` bytes from the control register.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            0 => self.control.into_bits(),
            4 => self.data,
            8 => self.address,
            _ => self.upper_address,
        }
    }

    /// Writes the register at `offset` bytes from the control register; gives the interrupt that was held
    /// back until now, if unmasking lets one go.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match offset {
            0 => self.control.set_masked(EventControl::from_bits(value).masked()),
            4 => self.data = value,
            8 => self.address = value & !3,
            _ => self.upper_address = value,
        }
        self.send()
    }

    /// Something happened. Gives the interrupt, or holds it back while masked.
    pub(crate) fn raise(&mut self) -> Option<Message> {
        self.control.set_pending(true);
        self.send()
    }

    /// Software has dealt with all that happened: an interrupt still held back is void.
    pub(crate) fn clear_pending(&mut self) {
        self.control.set_pending(false);
    }

    fn send(&mut self) -> Option<Message> {
        if !self.control.pending() || self.control.masked() {
            return None;
        }
        self.control.set_pending(false);
        let address = u64::from(self.upper_address) << 32 | u64::from(self.address);
        Some(Message { address, data: self.data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_event_is_held_until_unmasked_or_cleared() {
        let mut event = Event::default();
        assert_eq!(event.read(0), 0x8000_0000);
        assert_eq!(event.write(4, 0x41), None);
        assert_eq!(event.write(8, 0xfee0_0000), None);
        assert_eq!(event.raise(), None);
        assert_eq!(event.read(0), 0xc000_0000);
        let message = Message { address: 0xfee0_0000, data: 0x41 };
        assert_eq!(event.write(0, 0), Some(message));
        assert_eq!(event.read(0), 0);
        assert_eq!(event.raise(), Some(message));
        event.write(0, 0x8000_0000);
        event.raise();
        event.clear_pending();
        assert_eq!(event.write(0, 0), None);
    }
}
