//! Memory of iommud's that stays mapped although the kernel takes it for unmapped.

use agent::failure::{Failure, Outcome};

#[cfg(target_os = "redox")]
pub(crate) use redox::Chain;

#[cfg(target_os = "redox")]
mod redox {
    use edud::daemon::registered::object;
    use libdma::Handle;
    use libredox::Fd;
    use libredox::error::Error;
    use syscall::MapFlags;
    use syscall::flag::{ADDRSPACE_OP_MMAP, ADDRSPACE_OP_MUNMAP};

    use super::{Failure, Outcome};
    use crate::lent::BYTES;

    /// Where each has it.
    const PLACE: usize = 1 << 32;

    /// Three address spaces in which nobody runs: the first has what a handle stands for, each of the others what the one before
    /// it has.
    pub(crate) struct Chain([Fd; 3]);

    impl Chain {
        pub(crate) fn of(handle: &Handle) -> Outcome<Self> {
            let space = || object().map_err(failure);
            let [first, second, third] = [space()?, space()?, space()?];
            show(&first, handle.raw().number() as usize, 0)?;
            show(&second, first.raw(), PLACE)?;
            show(&third, second.raw(), PLACE)?;
            Ok(Self([first, second, third]))
        }

        /// Takes it out of the two that the kernel knows of (663e6641, `src/context/memory.rs`: `Grant::borrow` counts who borrows
        /// straight of what a scheme has lent).
        pub(crate) fn seem_unmapped(&self) -> Outcome {
            let Self([first, second, _]) = self;
            tell(second, &[ADDRSPACE_OP_MUNMAP, PLACE, BYTES])?;
            tell(first, &[ADDRSPACE_OP_MUNMAP, PLACE, BYTES])
        }
    }

    fn show(space: &Fd, source: usize, offset: usize) -> Outcome {
        let flags = MapFlags::PROT_READ | MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
        tell(space, &[ADDRSPACE_OP_MMAP, source, offset, PLACE, BYTES, flags.bits()])
    }

    fn tell(space: &Fd, words: &[usize]) -> Outcome {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        space.write(&bytes).map(drop).map_err(failure)
    }

    fn failure(error: Error) -> Failure {
        Failure(format!("the kernel: {error}"))
    }
}

/// So that the rest is checked on other systems, too.
#[cfg(not(target_os = "redox"))]
pub(crate) struct Chain;

#[cfg(not(target_os = "redox"))]
impl Chain {
    pub(crate) fn of(_: &libdma::Handle) -> Outcome<Self> {
        Err(Failure("there are such address spaces on Redox alone".into()))
    }

    pub(crate) fn seem_unmapped(&self) -> Outcome {
        Ok(())
    }
}
