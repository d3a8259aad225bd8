//! An owned handle.

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::protocol::Error;
use crate::protocol::call::Opcode;
use crate::transport::{RawHandle, Transport};

/// The environment variable by which a process leaves a device's handle to the program that it runs: the number of an
/// inherited descriptor.
pub const DEVICE_VARIABLE: &str = "IOMMU_DEVICE";

/// A handle and the transport it is of. Dropping it closes it.
pub struct Handle {
    transport: Arc<dyn Transport>,
    raw: RawHandle,
}

impl Handle {
    /// Takes a handle over, which must be of this transport: a number means something else to another.
    pub fn new(transport: Arc<dyn Transport>, raw: RawHandle) -> Self {
        Self { transport, raw }
    }

    /// Opens a node by its path (see [`crate::protocol::path`]).
    pub fn open(transport: Arc<dyn Transport>, path: &str) -> Result<Self, Error> {
        let raw = transport.open(path)?;
        Ok(Self { transport, raw })
    }

    /// Makes a new handle from this one (see [`crate::protocol::derive`]).
    pub fn derive(&self, request: &(impl IntoBytes + Immutable)) -> Result<Self, Error> {
        let raw = self.transport.derive(self.raw, request.as_bytes())?;
        Ok(Self { transport: self.transport.clone(), raw })
    }

    /// Makes a call whose answer is as long as `Answer`, or longer.
    pub fn call<Answer: FromBytes + IntoBytes>(
        &self,
        opcode: Opcode,
        request: &(impl IntoBytes + Immutable),
    ) -> Result<Answer, Error> {
        let mut answer = Answer::new_zeroed();
        let payload = answer.as_mut_bytes();
        let request = request.as_bytes();
        payload.get_mut(..request.len()).ok_or(Error::BadValue)?.copy_from_slice(request);
        let length = self.transport.call(self.raw, opcode, payload)?;
        if length < size_of::<Answer>() { Err(Error::ShortPayload) } else { Ok(answer) }
    }

    /// Makes a call whose answer is written over its payload; how long it is.
    pub fn call_bytes(&self, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
        self.transport.call(self.raw, opcode, payload)
    }

    /// The transport that this handle is of.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The handle as its transport numbers it, for as long as this lives.
    pub fn raw(&self) -> RawHandle {
        self.raw
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's alone, and a buffer unmaps its memory before its handle goes.
        unsafe { self.transport.close(self.raw) };
    }
}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Handle").field(&self.raw.number()).finish()
    }
}
