//! Amounts of processor time and memory as exact whole numbers, and of time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::FieldFault;

/// Processor time in thousandths of a CPU, so that half a CPU is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(pub u64);

impl CpuMillis {
    /// Most CPUs that a request may name; a bound against nonsense, far above any machine.
    pub const MAX_CPUS: u64 = 4096;

    /// Reads a number of CPUs such as `2` or `0.5`. The engine counts in thousandths, so finer fractions are refused.
    ///
    /// # Errors
    /// Names `field` when the number is not between 0.01 and 4096, or finer than a thousandth.
    pub fn parse(field: &str, cpus: f64) -> Result<Self, FieldFault> {
        let fault = || FieldFault::new(field, "must be a number of CPUs from 0.01 to 4096, in steps of 0.001");
        let millis = (cpus * 1000.0).round();
        let exact = (cpus * 1000.0 - millis).abs() < 1e-6;
        if !cpus.is_finite() || !exact || !(10.0..=4_096_000.0).contains(&millis) {
            return Err(fault());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked on the line above")]
        Ok(Self(millis as u64))
    }

    /// The amount in CPUs, for people and JSON.
    #[must_use]
    pub fn as_cpus(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 4096000, far below 2^52")]
        let millis = self.0 as f64;
        millis / 1000.0
    }

    /// The amount as Docker's `NanoCpus`.
    #[must_use]
    pub fn as_nanos(self) -> i64 {
        i64::try_from(self.0.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            write!(f, "{whole}")
        } else {
            let digits = format!("{rest:03}");
            write!(f, "{whole}.{}", digits.trim_end_matches('0'))
        }
    }
}

/// Longest text of a time, in characters.
pub const MAX_DURATION_CHARS: usize = 256;
/// Most digits of a number in it. With the bound above, the sum of all of it is far below what a `Duration` holds: beyond that
/// `humantime` panics.
const MAX_DURATION_DIGITS: usize = 9;

/// Reads a time such as `90s`, `30m` or `1h 30m`.
#[must_use]
pub fn read_duration(text: &str) -> Option<Duration> {
    let digits = |number: &str| number.chars().filter(char::is_ascii_digit).count();
    let sane = text.chars().count() <= MAX_DURATION_CHARS && text.split(char::is_alphabetic).all(|number| digits(number) <= MAX_DURATION_DIGITS);
    if sane { humantime::parse_duration(text).ok() } else { None }
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryBytes(pub u64);

/// Binary units, largest first, with their size in bytes.
const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
/// Decimal units, as disks and some people count.
const DECIMAL_UNITS: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

impl MemoryBytes {
    /// Most that a request may name: 1 PiB, a bound against nonsense.
    pub const MAX: Self = Self(1 << 50);
    /// Least that the engine gives a container.
    pub const LEAST_OF_CONTAINER: Self = Self(6 << 20);

    /// Reads an amount such as `4GiB`, `512MiB`, `1.5GiB`, `2GB` or a plain number of bytes.
    ///
    /// # Errors
    /// Names `field` when the text is not such an amount, is zero, or is above 1 PiB.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        Self::read(text.trim()).filter(|bytes| bytes.0 > 0 && *bytes <= Self::MAX).ok_or_else(|| {
            FieldFault::new(
                field,
                "must be an amount of memory such as 512MiB or 4GiB (units B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), at most 1024TiB",
            )
        })
    }

    /// Reads an amount that a container is to get: at least [`Self::LEAST_OF_CONTAINER`].
    ///
    /// # Errors
    /// Names `field` when the text is not such an amount.
    pub fn parse_of_container(field: &str, text: &str) -> Result<Self, FieldFault> {
        let memory = Self::parse(field, text)?;
        if memory < Self::LEAST_OF_CONTAINER {
            return Err(FieldFault::new(field, format!("must be at least {}, the least that the engine accepts", Self::LEAST_OF_CONTAINER)));
        }
        Ok(memory)
    }

    fn read(text: &str) -> Option<Self> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits_end);
        let unit = unit.trim_start();
        let factor = match unit {
            "" | "B" => 1,
            _ => BINARY_UNITS.into_iter().chain(DECIMAL_UNITS).find(|(name, _)| *name == unit)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 6 || (number.contains('.') && fraction.is_empty()) {
            return None;
        }
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let whole: u64 = whole.parse().ok()?;
        let parts = u128::from(whole) * u128::from(scale) + u128::from(fraction);
        let bytes = parts.checked_mul(u128::from(factor))?;
        (bytes % u128::from(scale) == 0 || factor > 1).then_some(())?;
        u64::try_from(bytes / u128::from(scale)).ok().map(Self)
    }

    /// The amount as the engine takes it.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for MemoryBytes {
    /// The largest binary unit that divides the amount exactly, so that the text reads back to the same amount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in BINARY_UNITS {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{name}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_reads_what_people_write() {
        let read = |text| MemoryBytes::parse("memory", text).map(|m| m.0);
        assert_eq!(read("4GiB"), Ok(4 << 30));
        assert_eq!(read("1.5GiB"), Ok(3 << 29));
        assert_eq!(read("512 MiB"), Ok(512 << 20));
        assert_eq!(read("2GB"), Ok(2_000_000_000));
        assert_eq!(read("1024"), Ok(1024));
        for bad in ["", "0", "GiB", "-1GiB", "1.GiB", ".5GiB", "4GIB", "4 G", "1e9", "99999999TiB", "1.5B", "１GiB"] {
            assert!(read(bad).is_err(), "{bad:?} was read as {:?}", read(bad));
        }
    }

    #[test]
    fn times_read_what_people_write_and_no_number_is_too_large() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h 30m", 5400), ("1 h", 3600), ("1.5h", 5400), ("7days", 604_800), ("0", 0)] {
            assert_eq!(read_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        // The first two are one more than a `Duration` holds, in parts that fit.
        let bad = ["18446744073709551615s 1000ms", "584542046090y 19767615s 1000ms", "1234567890s", "", "1", "s", "-1s", "1h,30m", "1 parsec"];
        for text in bad.into_iter().map(str::to_owned).chain(["1s".repeat(129)]) {
            assert_eq!(read_duration(&text), None, "{text}");
        }
        let longest = "999999999y".repeat(25);
        assert!(read_duration(&longest).is_some(), "and does not panic");
    }

    #[test]
    fn cpus_read_fractions_and_refuse_nonsense() {
        let read = |cpus| CpuMillis::parse("cpus", cpus).map(|c| c.0);
        assert_eq!(read(2.0), Ok(2000));
        assert_eq!(read(0.25), Ok(250));
        for bad in [0.0, -1.0, 0.0001, 1.00001, 5000.0, f64::NAN, f64::INFINITY] {
            assert!(read(bad).is_err(), "{bad} was read as {:?}", read(bad));
        }
    }

    proptest! {
        #[test]
        fn memory_reads_back_what_it_shows(bytes in 1_u64..=(1 << 50)) {
            prop_assert_eq!(MemoryBytes::parse("memory", &MemoryBytes(bytes).to_string()), Ok(MemoryBytes(bytes)));
        }

        #[test]
        fn cpus_read_back_what_they_show(millis in 10_u64..=4_096_000) {
            let shown: f64 = CpuMillis(millis).to_string().parse().expect("a number");
            prop_assert_eq!(CpuMillis::parse("cpus", shown), Ok(CpuMillis(millis)));
        }

        #[test]
        fn no_time_panics(text in "([0-9]{1,21}(ns|ms|s|m|d|y) ?){1,6}") {
            let _ = read_duration(&text);
        }

        #[test]
        fn memory_never_panics(text in ".{0,40}") {
            let _ = MemoryBytes::parse("memory", &text);
        }
    }
}
