//! What is said of a blocked access.

codes! {
    /// What a blocked request was for: [`EventRecord::tried`](super::event::EventRecord::tried).
    Tried: u16 {
        /// To read memory.
        Read = 1,
        /// To write memory.
        Write = 2,
        /// To read or write memory: the unit does not tell which.
        Access = 3,
        /// To change memory at once: to read and write it.
        Atomic = 4,
        /// To have a page mapped that is not.
        Page = 5,
        /// To interrupt a processor.
        Interrupt = 6,
        /// To learn what an address is translated to.
        Translation = 7,
        /// Nothing: the unit reports on its own work for the device.
        Internal = 8,
    }
}

codes! {
    /// Why a request was blocked: [`EventRecord::reason`](super::event::EventRecord::reason).
    Reason: u32 {
        /// The device reached nothing at all at that time.
        NoDomain = 1,
        /// The page is not mapped, or not for reading.
        NotReadable = 2,
        /// The page is not mapped, or not for writing.
        NotWritable = 3,
        /// The address has more bits than the device's tables translate.
        BeyondWidth = 4,
        /// The device claimed to have translated the address itself.
        Translated = 5,
        /// The request, or the page it was translated to, lies where interrupts go.
        InterruptRange = 6,
        /// An interrupt was refused.
        Interrupt = 7,
        /// The request carried a process address space id, or came by a mode that is never turned on.
        Mode = 8,
        /// The unit could not make sense of the device's entries in its tables.
        DeviceTable = 9,
        /// The unit could not make sense of a page table.
        PageTable = 10,
        /// The unit could not carry out a command.
        Command = 11,
        /// The unit gave a reason that iommud does not know.
        Unknown = 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Error;

    #[test]
    fn r5_numbers_that_stand_for_nothing_are_refused() {
        assert_eq!(Tried::try_from(2), Ok(Tried::Write));
        assert_eq!(Reason::try_from(12), Ok(Reason::Unknown));
        for number in [0, 9, u16::MAX] {
            assert_eq!(Tried::try_from(number), Err(Error::BadValue));
        }
        for number in [0, 13, u32::MAX] {
            assert_eq!(Reason::try_from(number), Err(Error::BadValue));
        }
    }
}
