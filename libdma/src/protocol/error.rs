//! Every way a request can fail.
//!
//! A scheme answers with an errno and nothing else, so each error has one of its own, and a client
//! gets back exactly the variant that the daemon meant. Numbers are the same on Redox and Linux.

use thiserror::Error as ThisError;

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $errno:literal $name:ident, $sentence:literal;)*) => {
        /// Why a request failed. Whatever it was, nothing has changed (rule R7).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ThisError)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* #[doc = concat!("Errno ", stringify!($name), ".")] #[error($sentence)] $variant,)*
            /// An errno that this version of the protocol has no variant for: it came from the
            /// operating system rather than from iommud.
            #[error("the system refused with errno {0}")]
            Other(u16),
        }

        impl Error {
            /// Every error that iommud itself answers with.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The errno that stands for this error.
            pub const fn errno(self) -> u16 {
                match self {
                    $(Self::$variant => $errno,)*
                    Self::Other(errno) => errno,
                }
            }

            /// The error that this errno stands for.
            pub const fn from_errno(errno: u16) -> Self {
                match errno {
                    $($errno => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }
    };
}

errors! {
    /// The handle's rights do not include what was asked, or the caller may not open this.
    NotPermitted = 1 EPERM, "the handle or the caller does not have the right to do this";
    /// No node of this name.
    NoSuchPath = 2 ENOENT, "there is no such path under the iommu scheme";
    /// The IOMMU did not do its part: its unit was refused at start or has failed since.
    UnitFailed = 5 EIO, "the IOMMU in front of this device was refused or has failed: see `iommuctl units`";
    /// There is no such device, or no unit covers it.
    NoSuchDevice = 6 ENXIO, "there is no such device, or no IOMMU covers it: see `iommuctl devices`";
    /// More than [`MAX_BATCH`](super::MAX_BATCH) entries in a batch: pieces of a list, say, that are in no window.
    BatchTooLarge = 7 E2BIG, "one request has no more than 128 pieces: take fewer, or memory in windows, which is mapped already";
    /// A batch of nothing.
    EmptyBatch = 42 ENOMSG, "the batch has no entries";
    /// The handle is not one, or not one any more.
    BadHandle = 9 EBADF, "the handle is not open";
    /// The IOMMU in front of the device does not translate yet, or has not yet forgotten what was mapped at a chosen
    /// address.
    NotReady = 11 EAGAIN, "the IOMMU in front of this device is not ready for this yet: try again";
    /// No memory for the buffer, or for a table.
    OutOfMemory = 12 ENOMEM, "there is no memory for this";
    /// A pointer or payload that cannot be reached.
    BadAddress = 14 EFAULT, "the memory given with the request cannot be reached";
    /// Somebody else holds the device.
    DeviceBusy = 16 EBUSY, "another driver holds this device";
    /// The name of a handle's child already exists, or the address is mapped already.
    AlreadyMapped = 17 EEXIST, "something is mapped at this I/O address already";
    /// A strict mapping was to be made of memory that is mapped already, for whichever device, or another mapping of
    /// memory that has a strict one.
    MappedElsewhere = 76 ENOTUNIQ, "this memory is mapped elsewhere already, and a strict mapping is the only one of its memory";
    /// The kind of handle is wrong for the call.
    WrongHandleKind = 25 ENOTTY, "this kind of handle does not understand the call";
    /// Address, size or offset is not a multiple of what it must be.
    BadAlignment = 22 EINVAL, "an address, size or offset is not aligned as it must be";
    /// Larger than anything that could be granted.
    TooLarge = 27 EFBIG, "the size is larger than anything that can be granted";
    /// Longer than one segment of the device may be; a [`ScatterList`](crate::ScatterList) takes it in several.
    SegmentTooLong = 36 ENAMETOOLONG, "this is longer than one segment of the device may be: a `ScatterList` takes it in several";
    /// A DMA mask of fewer than 13 bits, below which there is no page to give out, or of more than 64.
    BadMask = 53 EBADR, "a DMA mask has from 13 to 64 bits";
    /// A pool's boundary is no power of two, or less than a block, which cannot but cross it.
    BadBoundary = 57 EBADSLT, "a boundary must be a power of two, and no less than a block";
    /// No block of the pool starts at the address.
    NoSuchBlock = 77 EBADFD, "no block of the pool starts at this address";
    /// The block of the pool was given back already, or has not been given out.
    BlockFree = 114 EALREADY, "the block at this address is free: it was given back already";
    /// The block of the pool was not left to the device.
    BlockHeld = 115 EINPROGRESS, "the block at this address was not left to the device: somebody holds it";
    /// One physical piece is needed: it would be longer, or more aligned, than any that the system ever gives, or the memory
    /// is in several.
    NotContiguous = 34 ERANGE, "this must be one piece of physical memory, and is in several, or longer or more aligned than any";
    /// No range of I/O addresses that large under the device's limit.
    NoAddressSpace = 28 ENOSPC, "no range of I/O addresses of this size is free below the device's limit";
    /// Outside the buffer.
    OutOfBuffer = 33 EDOM, "the range reaches beyond the end of the buffer";
    /// Address plus size leaves the address space.
    Overflow = 75 EOVERFLOW, "the address and size run over the end of the address space";
    /// The opcode is not one.
    UnknownCall = 38 ENOSYS, "there is no call with this number";
    /// The payload is shorter than the call's struct.
    ShortPayload = 90 EMSGSIZE, "the payload is shorter than the call needs";
    /// A struct has a value that no version of the protocol gives a meaning.
    BadValue = 74 EBADMSG, "a field of the request has a value that means nothing";
    /// Zero bytes were asked for.
    ZeroSize = 61 ENODATA, "a size of zero was asked for";
    /// Client and daemon speak different versions.
    VersionMismatch = 71 EPROTO, "client and iommud speak different versions of the protocol";
    /// [`Hello`](super::call::Hello) has not been said on this handle.
    NoHandshake = 91 EPROTOTYPE, "the first call on a device handle must be Hello";
    /// An unmap named a range that is not exactly one mapping.
    NotMapped = 99 EADDRNOTAVAIL, "the range is not exactly one that was mapped";
    /// The buffer or address is of another device, of another session of this one, or of another domain.
    WrongOwner = 130 EOWNERDEAD, "the buffer or address is of another device, session or domain";
    /// The streaming buffer is of the same device, but of a stream with other [`Limits`](crate::Limits) or other attributes,
    /// or one of the two is strict.
    OtherTerms = 18 EXDEV, "the buffer is of a stream on other terms: other limits or attributes, or only one of the two is strict";
    /// It is the device's turn with streaming memory: with what a [`RawStream`](crate::RawStream) mapped and has not synced for
    /// the CPU, or with a buffer that was lent to a [`ScatterList`](crate::ScatterList) which was forgotten while it was mapped.
    OfDevice = 26 ETXTBSY, "it is the device's turn: sync for the CPU first, or `take_back` what was lent to a scatter list that was forgotten";
    /// The streaming buffer lies in a window that others share, and is no [`Buffer`](crate::Buffer).
    SharesWindow = 60 ENOSTR, "the memory is a piece of a window, and no buffer of its own";
    /// The device has memory of its own already that was [declared](crate::declared).
    AlreadyDeclared = 120 EISNAM, "the device has memory of its own already: release that first";
    /// The device has no memory of its own.
    NothingDeclared = 119 ENAVAIL, "the device has no memory of its own";
    /// Blocks of the device's own memory are in use, or part of the range is.
    DeclaredInUse = 39 ENOTEMPTY, "the device's own memory, or this part of it, is in use";
    /// Memory that this process does not map was asked for where there is to be a CPU address.
    NoCpuMapping = 79 ELIBACC, "this memory is for the CPU too: what it does not map comes from `allocate_unmapped` of a `Device::buffer`";
    /// The hardware did not confirm in time.
    TimedOut = 110 ETIMEDOUT, "the IOMMU did not confirm in time";
    /// The device's session has ended; the handle is what is left of it.
    SessionEnded = 116 ESTALE, "the device's session has ended";
    /// The device made so many accesses that were blocked that the administrator's policy keeps it from everything.
    Quarantined = 132 ERFKILL, "the device is in quarantine: see `iommuctl devices`, and `iommuctl release` ends it";
    /// A device was to be released that is not in quarantine.
    NotQuarantined = 133 EHWPOISON, "the device is not in quarantine";
    /// A limit on what one client may hold. Which it was, [`Device::quota_reached`](crate::Device::quota_reached) tells.
    QuotaExceeded = 122 EDQUOT, "a limit on what one client may hold has been reached: see `iommuctl quotas`";
    /// More requests of one client wait for hardware than may, or more of what it has unmapped.
    TooManyRequests = 105 ENOBUFS, "too many requests of this client wait for the IOMMU already: try again when some of them are answered";
    /// Nothing is offered by this ticket, or no more.
    BadTicket = 126 ENOKEY, "the ticket is not one, was used, or ended with the handle that it was made of";
    /// What was offered as registers of a device is not known to be that.
    NotRegisters = 56 EBADRQC, "no BAR of this number is known to be registers of the device, and nothing else";
    /// The handle was [revoked](super::handle::Revoke). Nothing else is answered on it any more.
    Revoked = 128 EKEYREVOKED, "the handle was revoked by who it was derived from";
    /// The device was reset since [`Hello`](super::call::Hello) was said on this handle: what the holder knows of its
    /// state is of before. The next `Hello` makes the handle good again.
    DeviceReset = 117 EUCLEAN, "the device was reset since this handle was last greeted: set it up anew";
    /// The device cannot be [reset](super::handle::Reset) by itself.
    NoReset = 124 EMEDIUMTYPE, "the device has no reset of its own: neither by PCI Express nor by Advanced Features";
    /// The daemon is gone.
    DaemonGone = 19 ENODEV, "iommud is not running, or was restarted since the handle was opened";
    /// The handle was passed to this process without the means to have it again, and the iommud that it was of is gone.
    HandleLost = 131 ENOTRECOVERABLE, "the handle has ended with the iommud that gave it: whoever passed it to this process has to pass another";
    /// There is no session that waits for this secret, or nothing of this number that waits for the session's client: it was
    /// never there, is somebody else's, is in use, or was given up.
    NotYours = 127 EKEYEXPIRED, "nothing of before iommud's restart waits here for this client: it is not its own, is in use, or waited too long";
    /// The domain's tables are not of a kind that the device's unit can walk.
    IncompatibleDomain = 95 EOPNOTSUPP, "the device's IOMMU cannot walk this domain's tables";
    /// A chosen I/O address is outside of the addresses that the domain was made for.
    OutsideAperture = 44 ECHRNG, "the I/O addresses are not within the aperture that the domain was made with";
    /// A chosen I/O address is never given out: writes there are interrupts, or firmware keeps it for a device.
    AddressReserved = 98 EADDRINUSE, "the I/O addresses are reserved, for interrupts or by firmware";
    /// An I/O address was chosen, or a domain asked for, where there is no IOMMU.
    NoIommu = 49 EUNATCH, "this machine has no IOMMU: devices see memory at its own addresses, and are in no domains";
    /// The device is in the domain already that it was to enter.
    AlreadyEntered = 106 EISCONN, "the device is in this domain already";
    /// The device is not in the domain that it was to leave, or not any more.
    NotEntered = 107 ENOTCONN, "the device is not in this domain, or not any more";
    /// What was sent to a handle that waits for memory is something else.
    NotMemory = 15 ENOTBLK, "what was sent is no memory object";
    /// The memory in an object is not all its sender's own: device registers, a file, or shared with somebody.
    NotOwnMemory = 66 EREMOTE, "memory can only be registered that is its sender's own: no device registers, no files, nothing shared";
    /// The system may move the memory elsewhere while a device reaches it: it is not in huge pages (Linux).
    MayMove = 129 EKEYREJECTED, "the system may move this memory while a device reaches it: on Linux it must be in huge pages of 2 MiB";
    /// The buffer was asked to be mapped privately.
    NotShared = 13 EACCES, "a buffer can only be mapped shared: a private copy would not be what the device sees";
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn each_error_has_one_errno_and_comes_back_as_itself() {
        for (index, error) in Error::ALL.iter().enumerate() {
            assert_eq!(Error::from_errno(error.errno()), *error);
            assert!(Error::ALL[..index].iter().all(|other| other.errno() != error.errno()));
        }
    }

    #[test]
    fn the_sentence_of_a_batch_that_is_too_large_says_how_large_it_may_be() {
        let most = alloc::format!(" {} ", crate::protocol::MAX_BATCH);
        assert!(alloc::format!("{}", Error::BatchTooLarge).contains(&most));
    }

    #[test]
    fn an_unknown_errno_is_kept() {
        assert_eq!(Error::from_errno(4), Error::Other(4));
        assert_eq!(Error::Other(4).errno(), 4);
    }
}
