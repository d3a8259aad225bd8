//! Copies into and out of memory that a device sees.
//!
//! The device may change such memory at any time, so it is never borrowed as `&[u8]`: it is read and written by volatile
//! access, eight bytes at a time where it is aligned to that.

use core::ptr::NonNull;

type Word = u64;
const WORD: usize = size_of::<Word>();

/// How many bytes lie before the first whole word, of so many.
fn before_words(place: NonNull<u8>, bytes: usize) -> usize {
    (place.as_ptr().addr().wrapping_neg() % WORD).min(bytes)
}

/// Copies `data` to `place`.
///
/// # Safety
///
/// `place` is valid for writes of as many bytes, by volatile access.
pub(crate) unsafe fn copy_in(place: NonNull<u8>, data: &[u8]) {
    let (head, rest) = data.split_at(before_words(place, data.len()));
    let (words, tail) = rest.as_chunks::<WORD>();
    // SAFETY: the three parts are as long as `data` together, and the words start where they are aligned.
    unsafe {
        bytes_in(place, head);
        let aligned = place.add(head.len());
        for (index, word) in words.iter().enumerate() {
            aligned.cast::<Word>().add(index).write_volatile(Word::from_ne_bytes(*word));
        }
        bytes_in(aligned.add(words.len() * WORD), tail);
    }
}

/// Copies what is at `place` into all of `out`.
///
/// # Safety
///
/// `place` is valid for reads of as many bytes, by volatile access.
pub(crate) unsafe fn copy_out(place: NonNull<u8>, out: &mut [u8]) {
    let (head, rest) = out.split_at_mut(before_words(place, out.len()));
    let (words, tail) = rest.as_chunks_mut::<WORD>();
    // SAFETY: as in `copy_in`.
    unsafe {
        bytes_out(place, head);
        let aligned = place.add(head.len());
        for (index, word) in words.iter_mut().enumerate() {
            *word = aligned.cast::<Word>().add(index).read_volatile().to_ne_bytes();
        }
        bytes_out(aligned.add(words.len() * WORD), tail);
    }
}

/// Makes `bytes` bytes at `place` zeroes.
///
/// # Safety
///
/// `place` is valid for writes of as many bytes, by volatile access.
pub(crate) unsafe fn zero(place: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { fill(place, 0, bytes) };
}

/// Makes each of the `bytes` bytes at `place` this one.
///
/// # Safety
///
/// As for [`zero`].
#[inline]
pub(crate) unsafe fn fill(place: NonNull<u8>, byte: u8, bytes: usize) {
    let word = [byte; WORD];
    let before = before_words(place, bytes);
    let (words, behind) = ((bytes - before) / WORD, (bytes - before) % WORD);
    // SAFETY: the three parts are `bytes` together, each of the first and the last less than a word, and the words start
    // where they are aligned.
    unsafe {
        bytes_in(place, &word[..before]);
        let aligned = place.add(before).cast::<Word>();
        for index in 0..words {
            aligned.add(index).write_volatile(Word::from_ne_bytes(word));
        }
        bytes_in(aligned.add(words).cast(), &word[..behind]);
    }
}

/// Copies `bytes` bytes from one place to another, by way of the stack.
///
/// # Safety
///
/// `from` is valid for reads of as many bytes and `to` for writes, both by volatile access; they do not overlap.
pub(crate) unsafe fn across(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) {
    let mut piece = [0; 512];
    let mut done = 0;
    while let Some(piece) = piece.get_mut(..(bytes - done).min(512))
        && !piece.is_empty()
    {
        // SAFETY: `done` and the piece together are at most `bytes`.
        unsafe {
            copy_out(from.add(done), piece);
            copy_in(to.add(done), piece);
        }
        done += piece.len();
    }
}

/// # Safety
///
/// As [`copy_in`].
unsafe fn bytes_in(place: NonNull<u8>, data: &[u8]) {
    for (index, byte) in data.iter().enumerate() {
        // SAFETY: `place` is valid for writes of all of `data`.
        unsafe { place.add(index).write_volatile(*byte) };
    }
}

/// # Safety
///
/// As [`copy_out`].
unsafe fn bytes_out(place: NonNull<u8>, out: &mut [u8]) {
    for (index, byte) in out.iter_mut().enumerate() {
        // SAFETY: `place` is valid for reads of all of `out`.
        *byte = unsafe { place.add(index).read_volatile() };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Every place in a word and every length up to a few words; what lies around stays.
    #[test]
    fn copies_are_exact_wherever_they_start_and_end() {
        let data: Vec<u8> = (1..=if cfg!(miri) { 17 } else { 40 }).collect();
        for start in 0..9 {
            for bytes in 0..=data.len() {
                let mut memory = [0xee_u8; 64];
                let place = NonNull::from(&mut memory).cast::<u8>();
                let mut out = std::vec![0; bytes];
                // SAFETY: `start + bytes` is at most 48 of the 64 bytes, which nothing else uses meanwhile.
                unsafe {
                    copy_in(place.add(start), &data[..bytes]);
                    copy_out(place.add(start), &mut out);
                }
                assert_eq!(out, data[..bytes]);
                assert!(
                    memory[..start].iter().chain(&memory[start + bytes..]).all(|it| *it == 0xee)
                );
                assert_eq!(memory[start..start + bytes], data[..bytes]);
            }
        }
    }

    #[test]
    fn what_goes_across_is_the_same_there() {
        for bytes in [0, 1, 511, 512, 1500] {
            let mut from: Vec<u8> = (0..1500_u32).map(|it| it as u8 | 1).collect();
            let mut to = std::vec![0; 1500];
            let (source, target) = (NonNull::from(&mut from[..]), NonNull::from(&mut to[..]));
            // SAFETY: both are as long, and nothing else uses them meanwhile.
            unsafe { across(source.cast(), target.cast(), bytes) };
            assert_eq!(to[..bytes], from[..bytes]);
            assert!(to[bytes..].iter().all(|it| *it == 0));
        }
    }

    #[test]
    fn zeroing_ends_where_it_is_told_to() {
        for bytes in [0, 1, 511, 512, 513, 1030] {
            let mut memory = [0xee_u8; 1040];
            // SAFETY: the range lies in the array.
            unsafe { zero(NonNull::from(&mut memory).cast::<u8>().add(3), bytes) };
            assert!(memory[3..3 + bytes].iter().all(|it| *it == 0));
            assert!(memory[..3].iter().chain(&memory[3 + bytes..]).all(|it| *it == 0xee));
        }
    }
}
