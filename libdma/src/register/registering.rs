//! From memory to a buffer.

use dma_types::{Access, PAGE_SIZE};
use thiserror::Error as ThisError;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::ForeignMemory;
use crate::buffer::Buffer;
use crate::device::Device;
use crate::handle::Handle;
use crate::protocol::Error;
use crate::protocol::call::{Hello, Opcode, Welcome, access_code};
use crate::protocol::derive::{self, Allocate, Register};
use crate::resume::UnderWay;
use crate::transport::NotSupplied;
use crate::unmapped::{Asked, UnmappedBuffer};

/// Why memory was not registered, and the memory.
#[derive(Debug, ThisError)]
#[error("{error}")]
pub struct NotRegistered {
    /// Why.
    #[source]
    pub error: Error,
    /// The memory, with what is in it. `None` if it is lost: a device may reach it still, or something else came to be
    /// where it was.
    pub memory: Option<ForeignMemory>,
}

impl From<NotRegistered> for Error {
    fn from(refused: NotRegistered) -> Self {
        refused.error
    }
}

impl Device {
    /// Makes a buffer of memory that this process has, mapped for the device as a whole if `access` says how. Without,
    /// pieces of it are mapped by [`map`](Self::map). The [label](Device#labels) is what reports
    /// call it.
    ///
    /// It is what Linux's `dma_map_single` and `dma_map_sg` are given memory of the caller's for: on Linux pinning it
    /// (`pin_user_pages`) and mapping it is one, here the memory is handed over once and mapped as often as needed.
    ///
    /// The memory is iommud's from then on. When the buffer is dropped, it is gone from this process: what is to be
    /// kept is copied out before.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] above [`MAX_REGISTER_BYTES`](derive::MAX_REGISTER_BYTES), [`Error::NotOwnMemory`] for memory
    /// that is not plain, [`Error::MayMove`] for pages that the system may move, [`Error::OutOfBuffer`] if some of it is
    /// not mapped, [`Error::NotMemory`] if this transport cannot be given such memory, [`Error::NotContiguous`] for
    /// several pieces as one mapping without an IOMMU, and those of [`Device::allocate`].
    #[track_caller]
    pub fn register(
        &self,
        memory: ForeignMemory,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, NotRegistered> {
        match self.supply(&memory, access, label) {
            Ok(handle) => {
                // Of the pages that it lies in, which may be larger, no more than this is the buffer's.
                let (bytes, limit) = (Some(memory.len() as u64), self.highest_address());
                let asked = Asked { bytes, access, align: PAGE_SIZE, limit };
                let memory = memory.into_mapping();
                let session = self.session();
                let buffer = session.make_once(|under_way| {
                    UnmappedBuffer::greeted(handle, session.clone(), under_way)
                });
                match buffer.and_then(|buffer| buffer.if_it_is(&asked)) {
                    Ok(buffer) => {
                        // SAFETY: it is the memory of this buffer, and the buffer's to unmap.
                        let buffer = unsafe { Buffer::from_parts(buffer, memory) };
                        Ok(buffer.marked(access, label))
                    }
                    Err(error) => {
                        // SAFETY: the transport was supplied with it, and nobody has it any more.
                        unsafe { self.handle().transport().unmap(memory) };
                        Err(NotRegistered { error, memory: None })
                    }
                }
            }
            Err(NotSupplied { error, is_gone: false }) => {
                Err(NotRegistered { error, memory: Some(memory) })
            }
            Err(NotSupplied { error, is_gone: true }) => {
                memory.forget();
                Err(NotRegistered { error, memory: None })
            }
        }
    }

    /// Sends the memory to a handle that waits for it, and is a buffer's then.
    fn supply(
        &self,
        memory: &ForeignMemory,
        access: Option<Access>,
        label: &str,
    ) -> Result<Handle, NotSupplied> {
        let supply = memory.supply();
        let transport = self.handle().transport();
        let request = Register {
            kind: U32::new(derive::Kind::Register as u32),
            access: U32::new(access.map_or(0, access_code)),
            bytes: U64::new(supply.bytes as u64),
            align: U64::new(PAGE_SIZE),
            limit: U64::new(self.highest_address().get()),
            address: U64::new(transport.place(&supply)?),
            label: Allocate::label(label),
        };
        let make = |_: Option<&UnderWay<'_>>| {
            let handle = self.handle().derive_once(request.as_bytes())?;
            let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
            Ok(handle)
        };
        let handle = self.windows().after_trimming(|| self.session().request_new(make))?;
        // SAFETY: the handle is open and of this transport. The memory is as whoever made the `ForeignMemory` promised, and is used from now on only through the
        // buffer.
        unsafe { transport.supply(handle.raw(), &supply) }?;
        Ok(handle)
    }
}
