//! Platforms that are made of parts.

/// Has a platform be what a field of it is: `delegate!(Machine, Registers, windows)` for `Machine { windows, .. }`, whose
/// `windows` are [`Registers`](crate::platform::Registers). All of the trait is the field's.
#[macro_export]
macro_rules! delegate {
    ($platform:ty, TableFrames, $part:ident) => {
        const _: () = {
            use ::core::ops::Range;
            use ::dma_types::PhysAddr;
            use $crate::platform::{TableFrame, TableFrames};

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

                fn alloc_divisible_run(&mut self, bytes: u64) -> Option<RunId> {
                    self.$part.alloc_divisible_run(bytes)
                }

                fn part_run(&mut self, whole: RunId, offset: u64, bytes: u64) -> Option<RunId> {
                    self.$part.part_run(whole, offset, bytes)
                }

                fn part_step(&self) -> u64 {
                    self.$part.part_step()
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
