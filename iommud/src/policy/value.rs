//! The values in a policy that are more than a word.

use core::fmt;
use core::time::Duration;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::policy::{Devices, IgnoredUnit};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// The longest reason, in characters: what fits a line or two.
const LONGEST_REASON: usize = 160;

/// A number of things, at least one.
pub(super) struct Count(pub(super) u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        const EXPECTED: &str =
            "a number from 1 to 4294967295 (without the word, there is a default limit)";

        let count = u64::deserialize(value)?;
        let wrong = || D::Error::invalid_value(Unexpected::Unsigned(count), &EXPECTED);
        u32::try_from(count).ok().filter(|count| *count != 0).map(Self).ok_or_else(wrong)
    }
}

/// A number of blocked accesses, or zero for however many.
pub(super) struct Faults(pub(super) u32);

/// More of them would keep the daemon busy before they are too many: up to so many a device's faults are all counted.
const MOST_FAULTS: u32 = 65536;

impl<'de> Deserialize<'de> for Faults {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number of blocked accesses from 1 to 65536, or 0 for never";

        let count = u64::deserialize(value)?;
        let wrong = || D::Error::invalid_value(Unexpected::Unsigned(count), &EXPECTED);
        u32::try_from(count).ok().filter(|it| *it <= MOST_FAULTS).map(Self).ok_or_else(wrong)
    }
}

/// A number of bytes, at least a page: `"512 MiB"`.
pub(super) struct Size(pub(super) u64);

/// Units of size, with what each is in powers of two.
const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_str(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size in quotes, as \"512 MiB\", in KiB, MiB, GiB or TiB: at least 4 KiB, and less than \
             16777216 TiB")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        let size = parse_size(text).filter(|size| *size >= PAGE_SIZE);
        size.map(Size).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// A number of bytes to be set aside, or none: `"64 MiB"`, `"0"`.
pub(super) struct Reserved(pub(super) u64);

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_str(ReservedVisitor)
    }
}

struct ReservedVisitor;

impl Visitor<'_> for ReservedVisitor {
    type Value = Reserved;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a size in quotes, as \"64 MiB\", in KiB, MiB, GiB or TiB: whole pages of 4 KiB, or \"0\" for none",
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Reserved, E> {
        let size = parse_size(text).filter(|size| size.is_multiple_of(PAGE_SIZE));
        size.map(Reserved).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    UNITS.iter().find_map(|(unit, shift)| {
        let number = text.strip_suffix(unit)?.trim_end();
        // `parse` takes a sign, which no size has.
        let number: u64 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
        number.checked_mul(1 << shift)
    })
}

/// A time: `"10 s"`.
pub(super) struct Wait(pub(super) Duration);

/// Units of time, with what each is in milliseconds.
const TIMES: [(&str, u64); 3] = [("ms", 1), ("min", 60_000), ("s", 1000)];

/// The longest time that anything waits: an hour.
const LONGEST_WAIT: u64 = 60 * 60_000;

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_str(WaitVisitor)
    }
}

struct WaitVisitor;

impl Visitor<'_> for WaitVisitor {
    type Value = Wait;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time in quotes, as \"10 s\", in ms, s or min: at most \"60 min\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Wait, E> {
        let wait = parse_wait(text).filter(|wait| *wait <= LONGEST_WAIT);
        let wait = wait.map(|wait| Wait(Duration::from_millis(wait)));
        wait.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn parse_wait(text: &str) -> Option<u64> {
    TIMES.iter().find_map(|(unit, milliseconds)| {
        let number = text.strip_suffix(unit)?.trim_end();
        let number: u64 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
        number.checked_mul(*milliseconds)
    })
}

/// Which devices a rule is for: `"0000:00:1f.2"` or `"8086:10d3"`.
pub(super) struct DevicesWord(pub(super) Devices);

impl<'de> Deserialize<'de> for DevicesWord {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_str(DevicesVisitor)
    }
}

struct DevicesVisitor;

impl Visitor<'_> for DevicesVisitor {
    type Value = DevicesWord;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a device in quotes: its address, as \"0000:00:1f.2\", or its vendor and device id, as \
             \"8086:10d3\"",
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<DevicesWord, E> {
        let devices = text.parse().map(Devices::At).ok().or_else(|| parse_id(text));
        devices.map(DevicesWord).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn parse_id(text: &str) -> Option<Devices> {
    let number = |text: &str| {
        let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(text, 16).ok().filter(|_| digits)
    };
    let (vendor, device) = text.split_once(':')?;
    Some(Devices::Id { vendor: number(vendor)?, device: number(device)? })
}

/// Units to leave alone, each with the reason: `{ 0xfed90000: "its firmware hangs" }`.
pub(super) fn ignored_units<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Vec<IgnoredUnit>, D::Error> {
    value.deserialize_map(UnitsVisitor)
}

struct UnitsVisitor;

impl<'de> Visitor<'de> for UnitsVisitor {
    type Value = Vec<IgnoredUnit>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("units with reasons, as { 0xfed90000: \"its firmware hangs\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut units: Vec<IgnoredUnit> = Vec::new();
        while let Some(Base(base)) = map.next_key()? {
            if units.iter().any(|unit| unit.base == base) {
                return Err(A::Error::custom(format_args!("the unit at {base} is there twice")));
            }
            let Reason(reason) = map.next_value()?;
            units.push(IgnoredUnit { base, reason });
        }
        Ok(units)
    }
}

/// Where a unit's registers are.
struct Base(PhysAddr);

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let base = PhysAddr::new(u64::deserialize(value)?);
        if base.get() == 0 || !base.is_aligned(PAGE_SIZE) {
            return Err(D::Error::custom(format_args!(
                "no unit has its registers at {base}: write the address that `iommuctl plan` shows, as \
                 0xfed90000"
            )));
        }
        Ok(Self(base))
    }
}

/// Why a unit is left alone. It goes into logs and reports, so that it has to be one line of text.
struct Reason(String);

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let reason = String::deserialize(value)?;
        let plain = !reason.trim().is_empty() && !reason.chars().any(char::is_control);
        if !plain || reason.chars().count() > LONGEST_REASON {
            return Err(D::Error::custom(format_args!(
                "a reason is a line of text of at most {LONGEST_REASON} characters: it is shown wherever \
                 the unit is"
            )));
        }
        Ok(Self(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_of_a_unit() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("4 KiB"), Some(4096));
        assert_eq!(parse_size("3TiB"), Some(3 << 40));
        for text in ["", "KiB", "-1 KiB", "+1 KiB", "1.5 GiB", "1 GB", "1 gib", "16777216 TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_whole_numbers_of_a_unit() {
        assert_eq!(parse_wait("10 s"), Some(10_000));
        assert_eq!(parse_wait("0 s"), Some(0));
        assert_eq!(parse_wait("250ms"), Some(250));
        assert_eq!(parse_wait("2 min"), Some(120_000));
        for text in ["", "s", "10", "-1 s", "+1 s", "1.5 s", "1 h", "1 S", "99999999999999999999 s"]
        {
            assert_eq!(parse_wait(text), None, "{text}");
        }
    }

    #[test]
    fn ids_have_eight_digits() {
        let id = Devices::Id { vendor: 0x8086, device: 0x10d3 };
        assert_eq!(parse_id("8086:10d3"), Some(id));
        assert_eq!(parse_id("8086:10D3"), Some(id));
        for text in ["8086", "8086:", "8086:10d", "8086:+0d3", "8086:10d3:1", "0x8086:10d3"] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }
}
