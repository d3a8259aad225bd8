//! Memory that a device sees, by where it starts and how much there is.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::coherent::Word;
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
    /// They are one piece of memory that no other thread has by this address, valid for volatile and atomic reads as long
    /// as this lives, and for such writes if [`write`](Self::write) or [`store`](Extent::store) is called.
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

impl<'m, T: FromBytes + IntoBytes> Extent<'m, T> {
    /// The bytes of the value of this index.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there is none.
    pub(crate) fn value(&self, index: usize) -> Result<Extent<'m>, Error> {
        let start = self.place(index, 1).ok_or(Error::OutOfBuffer)?.cast();
        Ok(Extent { start, length: size_of::<T>(), of: PhantomData })
    }
}

impl Extent<'_> {
    /// Reads an integer in one piece, `offset` bytes from its start.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if it would not lie in it, [`Error::BadAlignment`] if it is not aligned.
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that stores have.
    #[inline]
    pub(crate) fn load<W: Word>(&self, offset: usize, order: Ordering) -> Result<W, Error> {
        let place = self.word(offset)?;
        // SAFETY: `word` checked the place, and no other thread has it.
        Ok(unsafe { W::load(place, order) })
    }

    /// Writes an integer in one piece, `offset` bytes from its start.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that loads have.
    #[inline]
    pub(crate) fn store<W: Word>(
        &self,
        offset: usize,
        word: W,
        order: Ordering,
    ) -> Result<(), Error> {
        let place = self.word(offset)?;
        // SAFETY: as in `load`, and it is valid for writes.
        unsafe { word.store(place, order) };
        Ok(())
    }

    /// Where an integer is, if it lies in it and is aligned.
    #[inline]
    fn word<W: Word>(&self, offset: usize) -> Result<NonNull<W>, Error> {
        let place = self.place(offset, size_of::<W>()).ok_or(Error::OutOfBuffer)?.cast::<W>();
        if place.is_aligned() { Ok(place) } else { Err(Error::BadAlignment) }
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
    fn integers_lie_in_one_value_and_are_aligned() {
        let mut memory = [[0_u16; 4]; 2];
        let start = NonNull::from(&mut memory).cast::<[u16; 4]>();
        // SAFETY: as above.
        let extent = unsafe { Extent::new(start, 2) };
        let second = extent.value(1).unwrap();
        second.store(6, 0x0102_u16, Ordering::Release).unwrap();
        assert_eq!(second.load::<u8>(7, Ordering::Acquire), Ok(0x01));
        assert_eq!(second.load::<u16>(6, Ordering::Acquire), Ok(0x0102));
        assert_eq!(second.load::<u16>(5, Ordering::Acquire), Err(Error::BadAlignment));
        assert_eq!(second.load::<u16>(7, Ordering::Acquire), Err(Error::OutOfBuffer));
        assert_eq!(second.load::<u16>(usize::MAX, Ordering::Acquire), Err(Error::OutOfBuffer));
        assert_eq!(
            extent.value(0).unwrap().load::<u8>(8, Ordering::Acquire),
            Err(Error::OutOfBuffer)
        );
        assert!(extent.value(2).is_err());
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
