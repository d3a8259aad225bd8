//! Memory that clients lend with their requests.
//!
//! The kernel copies what does not fill a page. Pages that are lent whole are the client's own, mapped here
//! until the request is answered: the client can change them meanwhile, so whatever is to be judged is copied
//! first. It can also take them away, if nothing had been in them yet, and then whoever touches them is killed
//! for it. So those are touched by the kernel alone, which answers with an error: bytes go through a pipe.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use dma_types::PAGE_SIZE;
use libdma::Error;
use libdma::protocol::MAX_BATCH;
use libdma::protocol::call::{BatchHeader, MapEntry};

/// The most that is copied from a client, or read by it at once: as long as the longest request, a full batch,
/// and less than fits a pipe.
pub const MOST: usize = size_of::<BatchHeader>() + MAX_BATCH * size_of::<MapEntry>();

/// Copies from and to memory that clients lend.
#[derive(Debug, Default)]
pub struct Copier {
    /// Empty between two copies.
    pipe: Option<(PipeReader, PipeWriter)>,
}

impl Copier {
    /// A copy of as much as may be in a request.
    ///
    /// # Errors
    ///
    /// [`Error::BadAddress`] if the client took the memory away.
    pub fn copy_in(&mut self, lent: &[u8]) -> Result<Vec<u8>, Error> {
        let lent = lent.get(..MOST).unwrap_or(lent);
        if !has_whole_page(lent) {
            return Ok(lent.to_vec());
        }
        self.through_pipe(|reader, writer| {
            let length = writer.write(lent)?;
            let mut copy = vec![0; length];
            reader.read_exact(&mut copy)?;
            if length == lent.len() { Ok(copy) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
    }

    /// Copies an answer, or as much as there is room for; how much that was.
    ///
    /// # Errors
    ///
    /// [`Error::BadAddress`] if the client took the memory away.
    pub fn copy_out(&mut self, answer: &[u8], lent: &mut [u8]) -> Result<usize, Error> {
        let length = answer.len().min(lent.len()).min(MOST);
        let (Some(answer), Some(lent)) = (answer.get(..length), lent.get_mut(..length)) else {
            return Ok(0);
        };
        if has_whole_page(lent) {
            self.through_pipe(|reader, writer| {
                writer.write_all(answer)?;
                reader.read_exact(lent)
            })?;
        } else {
            lent.copy_from_slice(answer);
        }
        Ok(length)
    }

    fn through_pipe<T>(
        &mut self,
        copy: impl FnOnce(&mut PipeReader, &mut PipeWriter) -> io::Result<T>,
    ) -> Result<T, Error> {
        let (mut reader, mut writer) = match self.pipe.take() {
            Some(pipe) => pipe,
            None => io::pipe().map_err(|_| Error::OutOfMemory)?,
        };
        let copied = copy(&mut reader, &mut writer).map_err(|_| Error::BadAddress)?;
        // A pipe in which something may be left is not used again.
        self.pipe = Some((reader, writer));
        Ok(copied)
    }
}

/// Whether a range fills at least one page.
fn has_whole_page(range: &[u8]) -> bool {
    let start = range.as_ptr().addr() as u64;
    let end = start + range.len() as u64;
    start.next_multiple_of(PAGE_SIZE) + PAGE_SIZE <= end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of some pages that starts `offset` bytes into one.
    fn with_pages<T>(offset: usize, bytes: usize, test: impl FnOnce(&mut [u8]) -> T) -> T {
        let page = PAGE_SIZE as usize;
        let mut memory = vec![0u8; bytes + offset + page];
        let start = memory.as_ptr().align_offset(page) + offset;
        test(&mut memory[start..start + bytes])
    }

    #[test]
    fn whole_pages_are_told_from_parts() {
        for (offset, bytes, whole) in [
            (0, 4095, false),
            (0, 4096, true),
            (1, 4096, false),
            (1, 8190, false),
            (1, 8191, true),
            (4095, 4096, false),
            (4095, 4097, true),
            (0, 0, false),
        ] {
            with_pages(offset, bytes, |range| {
                assert_eq!(has_whole_page(range), whole, "{bytes} bytes from {offset} on");
            });
        }
    }

    #[test]
    fn bytes_come_through_however_they_lie() {
        let mut copier = Copier::default();
        for (offset, bytes) in [(0, 10), (3, 4096), (0, 4096), (5, MOST - 5), (0, MOST)] {
            let sent: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
            with_pages(offset, bytes, |lent| {
                assert_eq!(copier.copy_out(&sent, lent), Ok(bytes));
                assert_eq!(copier.copy_in(lent), Ok(sent));
            });
        }
    }

    #[test]
    fn r5_no_more_is_taken_than_a_request_can_need() {
        let mut copier = Copier::default();
        with_pages(0, 10 * MOST, |lent| {
            assert_eq!(copier.copy_in(lent).unwrap().len(), MOST);
            assert_eq!(copier.copy_out(&[1; 10], lent), Ok(10));
        });
        with_pages(0, 2, |lent| assert_eq!(copier.copy_out(&[1; 10], lent), Ok(2)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn r5_memory_that_was_taken_away_is_an_error_and_not_the_end() {
        use core::{ptr, slice};
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

        let bytes = MOST;
        // SAFETY: the kernel chooses the place.
        let place = unsafe {
            mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let place = place.unwrap();
        // SAFETY: nobody else has it. It cannot be touched, which is what this is about.
        let lent = unsafe { slice::from_raw_parts_mut(place.cast::<u8>(), bytes) };
        let mut copier = Copier::default();
        assert_eq!(copier.copy_in(lent), Err(Error::BadAddress));
        assert_eq!(copier.copy_out(&[1; MOST], lent), Err(Error::BadAddress));
        // SAFETY: it was mapped above, and is not used any more.
        unsafe { munmap(place, bytes) }.unwrap();
        // What did not come through does not come later.
        with_pages(0, bytes, |lent| {
            assert_eq!(copier.copy_out(&[2; MOST], lent), Ok(bytes));
            assert_eq!(copier.copy_in(lent), Ok(vec![2; MOST]));
        });
    }
}
