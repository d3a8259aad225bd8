//! Memory that a device sees, by where it starts and how much there is.

use core::marker::PhantomData;
use core::ptr::NonNull;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::copy;
use crate::protocol::Error;

/// So many values from a place on. The one check of whether a range lies in them is here.
pub(crate) struct Extent<'m, T = u8> {
    start: NonNull<T>,
    length: usize,
    of: PhantomData<&'m ()>,
}

impl<T> Extent<'_, T> {
    /// The `length` values from `start` on.
    ///
    /// # Safety
    ///
    /// They are one piece of memory, valid for volatile reads as long as this lives, and for volatile writes if
    /// [`write`](Self::write) is called.
    #[inline]
    pub(crate) unsafe fn new(start: NonNull<T>, length: usize) -> Self {
        Self { start, length, of: PhantomData }
    }

    /// Where the `count` values from `index` on are, if all of them lie in it.
    #[inline]
    pub(crate) fn place(&self, index: usize, count: usize) -> Option<NonNull<T>> {
        let end = index.checked_add(count)?;
        // SAFETY: there are `length` values, and the index is no more.
        (end <= self.length).then(|| unsafe { self.start.add(index) })
    }

    /// The `count` values from `index` on, if all of them lie in it.
    pub(crate) fn part(&self, index: usize, count: usize) -> Option<Self> {
        let start = self.place(index, count)?;
        Some(Self { start, length: count, of: PhantomData })
    }
}

impl<T: FromBytes + IntoBytes> Extent<'_, T> {
    /// Copies values out, from `index` on, into all of `out`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there are not as many, with nothing copied.
    pub(crate) fn read(&self, index: usize, out: &mut [T]) -> Result<(), Error> {
        let place = self.place(index, out.len()).ok_or(Error::OutOfBuffer)?;
        // SAFETY: `place` checked that there are as many values, any bytes of which are `T`s.
        unsafe { copy::copy_out(place.cast(), out.as_mut_bytes()) };
        Ok(())
    }
}

impl<T: IntoBytes + Immutable> Extent<'_, T> {
    /// Copies values in, from `index` on.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn write(&self, index: usize, values: &[T]) -> Result<(), Error> {
        let place = self.place(index, values.len()).ok_or(Error::OutOfBuffer)?;
        // SAFETY: `place` checked that there are as many values.
        unsafe { copy::copy_in(place.cast(), values.as_bytes()) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_that_lie_in_it_whole_have_a_place() {
        let mut memory = [0_u32; 8];
        let start = NonNull::from(&mut memory).cast::<u32>();
        // SAFETY: the array outlives it, and is used by nothing else meanwhile.
        let extent = unsafe { Extent::new(start, 8) };
        assert_eq!(extent.place(0, 8), Some(start));
        assert_eq!(extent.place(8, 0).map(|it| it.addr().get()), Some(start.addr().get() + 32));
        for (index, count) in [(0, 9), (1, 8), (8, 1), (9, 0), (1, usize::MAX), (usize::MAX, 1)] {
            assert_eq!(extent.place(index, count), None, "{index} {count}");
            assert!(extent.part(index, count).is_none(), "{index} {count}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_copied_in_part() {
        let mut memory = [0_u32; 4];
        let start = NonNull::from(&mut memory).cast::<u32>();
        // SAFETY: as above.
        let extent = unsafe { Extent::new(start, 4) };
        extent.write(2, &[7, 8]).unwrap();
        assert_eq!(extent.write(3, &[9, 9]), Err(Error::OutOfBuffer));
        let mut out = [0; 3];
        assert_eq!(extent.read(2, &mut out), Err(Error::OutOfBuffer));
        assert_eq!(out, [0; 3]);
        extent.read(1, &mut out).unwrap();
        assert_eq!(out, [0, 7, 8]);

        let part = extent.part(3, 1).unwrap();
        part.read(0, &mut out[..1]).unwrap();
        assert_eq!(out, [8, 7, 8]);
        assert_eq!(part.read(1, &mut out[..1]), Err(Error::OutOfBuffer));
    }
}
