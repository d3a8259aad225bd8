//! What a process asks of its namespace.
//!
//! relibc has a descriptor of its process's namespace. It opens paths from it, which gives the root of a scheme,
//! and duplicates it with words that say what shall be made of it (relibc 63599227, `redox-rt/src/sys.rs`; base
//! 9e128703, `bootstrap/src/initnsmgr.rs`; the numbers are libredox's `NsDup`).

/// What a duplicate of a namespace shall be. Numbers are in native order and as long as a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derived<'a> {
    /// Another namespace, of some of this one's schemes.
    Fork(Vec<&'a str>),
    /// The right to register a scheme under this name.
    Register(&'a str),
}

const FORK: usize = 0;
const REGISTER: usize = 2;

/// How long a request is at least that is not looked at: a page. Of a shorter one the kernel gives a copy. The whole
/// pages of a longer one stay the driver's own, and it could change a name after that has been allowed (kernel
/// 663e6641, `scheme/user.rs`, `capture_inner`).
pub const TOO_LONG: usize = 4096;

/// How long a number is.
const WORD: usize = size_of::<usize>();

impl<'a> Derived<'a> {
    /// Reads a request. `None` if it means nothing, is as long as [`TOO_LONG`], or is one for fewer permissions, which
    /// nobody makes.
    pub fn parse(request: &'a [u8]) -> Option<Self> {
        if request.len() >= TOO_LONG {
            return None;
        }
        let (kind, rest) = word(request)?;
        match kind {
            FORK => names(rest).map(Self::Fork),
            REGISTER => core::str::from_utf8(rest).ok().map(Self::Register),
            _ => None,
        }
    }

    /// The request for a namespace of these schemes.
    pub fn fork(names: &[&str]) -> Vec<u8> {
        let mut request = FORK.to_ne_bytes().to_vec();
        for name in names {
            request.extend(name.len().to_ne_bytes());
            request.extend(name.as_bytes());
        }
        request
    }

    /// The request for the right to register a scheme under this name.
    pub fn register(name: &str) -> Vec<u8> {
        [&REGISTER.to_ne_bytes()[..], name.as_bytes()].concat()
    }
}

fn word(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<WORD>()?;
    Some((usize::from_ne_bytes(*word), rest))
}

/// Names, each behind its length.
fn names(mut bytes: &[u8]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = word(bytes)?;
        let (name, rest) = rest.split_at_checked(length)?;
        names.push(core::str::from_utf8(name).ok()?);
        bytes = rest;
    }
    Some(names)
}

/// The scheme that a path leads to. What is not below `/scheme` is below `file`.
pub fn scheme(path: &str) -> &str {
    match path.strip_prefix("/scheme/") {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None if path == "/scheme" => "",
        None => "file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let request = Derived::fork(&["memory", "pipe", ""]);
        assert_eq!(Derived::parse(&request), Some(Derived::Fork(vec!["memory", "pipe", ""])));
        assert_eq!(Derived::parse(&Derived::fork(&[])), Some(Derived::Fork(vec![])));
        let request = Derived::register("disk.x");
        assert_eq!(Derived::parse(&request), Some(Derived::Register("disk.x")));
        // As relibc writes them: 2, then the name; 0, then a length and a name.
        assert_eq!(request, *b"\x02\0\0\0\0\0\0\0disk.x");
        assert_eq!(Derived::fork(&["irq"]), *b"\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0irq");
    }

    #[test]
    fn r5_requests_that_make_no_sense_are_none() {
        let whole = Derived::fork(&["memory"]);
        for length in 0..whole.len() {
            let parsed = Derived::parse(&whole[..length]);
            assert_eq!(parsed.is_some(), length == WORD, "{length}");
        }
        for kind in [1usize, 3, usize::MAX] {
            assert_eq!(Derived::parse(&kind.to_ne_bytes()), None);
        }
        let endless = [FORK.to_ne_bytes(), usize::MAX.to_ne_bytes()].concat();
        assert_eq!(Derived::parse(&endless), None);
        let unreadable = [&REGISTER.to_ne_bytes()[..], &[0xff]].concat();
        assert_eq!(Derived::parse(&unreadable), None);
    }

    #[test]
    fn r5_what_the_driver_could_change_meanwhile_is_not_looked_at() {
        // A page can fill a page of memory, and one byte less cannot.
        for (length, is_read) in
            [(TOO_LONG - 1, true), (TOO_LONG, false), (TOO_LONG + 1, false), (1 << 20, false)]
        {
            let name = "x".repeat(length - WORD);
            let request = Derived::register(&name);
            assert_eq!((request.len(), Derived::parse(&request).is_some()), (length, is_read));
        }
        let names = vec!["irq"; TOO_LONG / 11 + 1];
        assert_eq!(Derived::parse(&Derived::fork(&names)), None);
        assert_eq!(TOO_LONG as u64, dma_types::PAGE_SIZE);
    }

    #[test]
    fn a_path_names_its_scheme() {
        for (path, name) in [
            ("/scheme/irq/cpu-00/3", "irq"),
            ("/scheme/memory", "memory"),
            ("/scheme/memory/", "memory"),
            ("/scheme/", ""),
            ("/scheme", ""),
            ("/scheme//iommu", ""),
            ("/scheme/../iommu", ".."),
            ("/etc/passwd", "file"),
            ("memory:physical", "file"),
            ("", "file"),
        ] {
            assert_eq!(scheme(path), name, "{path}");
        }
    }
}
