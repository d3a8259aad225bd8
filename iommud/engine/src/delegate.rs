//! Platforms that are made of parts.

/// Has a platform be what a field of it is: `delegate!(Machine, Registers, windows)` for `Machine { windows, .. }`, whose
/// `windows` are [`Registers`](crate::platform::Registers). All of the trait is the field's, also what it would have without
/// it.
#[macro_export]
macro_rules! delegate {
    ($platform:ty, TableFrames, $part:ident) => {
        const _: () = {
            use ::core::ops::Range;
            use ::dma_types::PhysAddr;
            use $crate::platform::{TableFrame, TableFrames};

            #[deny(clippy::missing_trait_methods)]
            impl TableFrames for $platform {
                fn header_frame(&self) -> PhysAddr {
                    self.$part.header_frame()
                }

                fn alloc_frame(&mut self) -> Option<PhysAddr> {
                    self.$part.alloc_frame()
                }

                fn free_frame(&mut self, frame: PhysAddr) {
                    self.$part.free_frame(frame);
                }

                fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
                    self.$part.alloc_table(frames)
                }

                fn free_table(&mut self, start: PhysAddr, frames: usize) {
                    self.$part.free_table(start, frames);
                }

                fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
                    self.$part.table(frame)
                }

                fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
                    self.$part.flush_entries(frame, entries);
                }
            }
        };
    };

    ($platform:ty, BufferRuns, $part:ident) => {
        const _: () = {
            use ::dma_types::{CacheType, PhysAddr};
            use $crate::platform::{BufferRuns, ContiguityError, RunId, Segment};

            #[deny(clippy::missing_trait_methods)]
            impl BufferRuns for $platform {
                fn alloc_run(&mut self, bytes: u64) -> Option<RunId> {
                    self.$part.alloc_run(bytes)
                }

                fn alloc_contiguous_run(
                    &mut self,
                    bytes: u64,
                    limit: PhysAddr,
                ) -> Result<RunId, ContiguityError> {
                    self.$part.alloc_contiguous_run(bytes, limit)
                }

                fn longest_piece(&self) -> u64 {
                    self.$part.longest_piece()
                }

                fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
                    self.$part.alloc_divisible_run(bytes)
                }

                fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
                    self.$part.part_run(whole, offset, bytes)
                }

                fn set_cache_type(&mut self, run: RunId, cache: CacheType) -> CacheType {
                    self.$part.set_cache_type(run, cache)
                }

                fn free_run(&mut self, run: RunId) {
                    self.$part.free_run(run);
                }

                fn segments(&self, run: RunId) -> &[Segment] {
                    self.$part.segments(run)
                }
            }
        };
    };

    ($platform:ty, Registers, $part:ident) => {
        const _: () = {
            use ::dma_types::PhysAddr;
            use $crate::platform::{PlatformError, RegisterWindow, Registers};

            #[deny(clippy::missing_trait_methods)]
            impl Registers for $platform {
                fn map_registers(
                    &mut self,
                    base: PhysAddr,
                    bytes: usize,
                ) -> Result<RegisterWindow, PlatformError> {
                    self.$part.map_registers(base, bytes)
                }

                fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
                    self.$part.read32(window, offset)
                }

                fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
                    self.$part.write32(window, offset, value);
                }

                fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
                    self.$part.read64(window, offset)
                }

                fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
                    self.$part.write64(window, offset, value);
                }
            }
        };
    };

    ($platform:ty, ConfigSpace, $part:ident) => {
        const _: () = {
            use ::dma_types::PciAddress;
            use $crate::platform::ConfigSpace;

            #[deny(clippy::missing_trait_methods)]
            impl ConfigSpace for $platform {
                fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
                    self.$part.config_read(function, offset)
                }

                fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
                    self.$part.config_write(function, offset, value);
                }
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use core::ops::Range;

    use dma_types::{CacheType, PciAddress, PhysAddr};

    use crate::platform::{
        BufferRuns, ConfigSpace, ContiguityError, PlatformError, RegisterWindow, Registers, RunId,
        Segment, TableFrame, TableFrames,
    };

    /// It notes what is called.
    #[derive(Default)]
    struct Part {
        called: RefCell<Vec<&'static str>>,
    }

    impl Part {
        fn note<T>(&self, name: &'static str, answer: T) -> T {
            self.called.borrow_mut().push(name);
            answer
        }
    }

    /// Were a method missing in the macro, clippy would find it here: other crates' macros it does not look into.
    #[derive(Default)]
    struct Whole {
        frames: Part,
        runs: Part,
        windows: Part,
        config: Part,
    }

    delegate!(Whole, TableFrames, frames);
    delegate!(Whole, BufferRuns, runs);
    delegate!(Whole, Registers, windows);
    delegate!(Whole, ConfigSpace, config);

    impl TableFrames for Part {
        fn header_frame(&self) -> PhysAddr {
            self.note("header_frame", PhysAddr::new(1))
        }

        fn alloc_frame(&mut self) -> Option<PhysAddr> {
            self.note("alloc_frame", None)
        }

        fn free_frame(&mut self, _: PhysAddr) {
            self.note("free_frame", ());
        }

        fn alloc_table(&mut self, _: usize) -> Option<PhysAddr> {
            self.note("alloc_table", None)
        }

        fn free_table(&mut self, _: PhysAddr, _: usize) {
            self.note("free_table", ());
        }

        fn table(&self, _: PhysAddr) -> Option<&TableFrame> {
            self.note("table", None)
        }

        fn flush_entries(&self, _: PhysAddr, _: Range<usize>) {
            self.note("flush_entries", ());
        }
    }

    impl BufferRuns for Part {
        fn alloc_run(&mut self, _: u64) -> Option<RunId> {
            self.note("alloc_run", None)
        }

        fn alloc_contiguous_run(&mut self, _: u64, _: PhysAddr) -> Result<RunId, ContiguityError> {
            self.note("alloc_contiguous_run", Err(ContiguityError::TooLong))
        }

        fn longest_piece(&self) -> u64 {
            self.note("longest_piece", 7)
        }

        fn alloc_divisible_run(&mut self, _: u64) -> Option<RunId> {
            self.note("alloc_divisible_run", None)
        }

        fn part_run(&mut self, _: RunId, _: u64, _: u64) -> Option<RunId> {
            self.note("part_run", None)
        }

        fn set_cache_type(&mut self, _: RunId, cache: CacheType) -> CacheType {
            self.note("set_cache_type", cache)
        }

        fn free_run(&mut self, _: RunId) {
            self.note("free_run", ());
        }

        fn segments(&self, _: RunId) -> &[Segment] {
            self.note("segments", &[])
        }
    }

    impl Registers for Part {
        fn map_registers(
            &mut self,
            base: PhysAddr,
            _: usize,
        ) -> Result<RegisterWindow, PlatformError> {
            self.note("map_registers", Err(PlatformError::Registers(base)))
        }

        fn read32(&mut self, _: RegisterWindow, _: usize) -> u32 {
            self.note("read32", 1)
        }

        fn write32(&mut self, _: RegisterWindow, _: usize, _: u32) {
            self.note("write32", ());
        }

        fn read64(&mut self, _: RegisterWindow, _: usize) -> u64 {
            self.note("read64", 1)
        }

        fn write64(&mut self, _: RegisterWindow, _: usize, _: u64) {
            self.note("write64", ());
        }
    }

    impl ConfigSpace for Part {
        fn config_read(&mut self, _: PciAddress, _: u16) -> u32 {
            self.note("config_read", 1)
        }

        fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {
            self.note("config_write", ());
        }
    }

    #[test]
    fn each_method_is_the_parts_own() {
        let mut whole = Whole::default();
        let at = PhysAddr::new(0x1000);
        whole.header_frame();
        whole.alloc_frame();
        whole.free_frame(at);
        whole.alloc_table(2);
        whole.free_table(at, 2);
        whole.table(at);
        whole.flush_entries(at, 0..1);
        let frames = [
            "header_frame",
            "alloc_frame",
            "free_frame",
            "alloc_table",
            "free_table",
            "table",
            "flush_entries",
        ];
        assert_eq!(whole.frames.called.borrow()[..], frames);

        let run = RunId(1);
        whole.alloc_run(4096);
        assert!(whole.alloc_contiguous_run(4096, at).is_err());
        whole.alloc_divisible_run(4096);
        whole.part_run(run, 0, 4096);
        let cache = whole.set_cache_type(run, CacheType::Uncached);
        assert_eq!(cache, CacheType::Uncached);
        whole.free_run(run);
        whole.segments(run);
        let runs = [
            "alloc_run",
            "alloc_contiguous_run",
            "alloc_divisible_run",
            "part_run",
            "set_cache_type",
            "free_run",
            "segments",
        ];
        assert_eq!(whole.runs.called.borrow()[..], runs);

        let window = RegisterWindow(0);
        assert!(whole.map_registers(at, 8).is_err());
        whole.read32(window, 0);
        whole.write32(window, 0, 0);
        whole.read64(window, 0);
        whole.write64(window, 0, 0);
        let windows = ["map_registers", "read32", "write32", "read64", "write64"];
        assert_eq!(whole.windows.called.borrow()[..], windows);

        let function = PciAddress::from_source(0, dma_types::SourceId::new(0));
        whole.config_read(function, 0);
        whole.config_write(function, 0, 0);
        assert_eq!(whole.config.called.borrow()[..], ["config_read", "config_write"]);
    }
}
