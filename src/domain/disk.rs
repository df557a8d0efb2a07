//! How full a disk may become, and what follows: a first mark at which room is made, and a second at which no new work begins.
//!
//! Between a mark that was reached and the state without it lies a band, so that a disk that hovers at a mark does not flap:
//!
//! ```text
//!  free:   0 ......... full .... full + 1/4 ......... low .... low + 1/4 ......... total
//!            state Full   | stays Full |  state Low      | stays Low |  state Fine
//! ```

use std::fmt;

use super::amount::MemoryBytes;
use super::fault::FieldFault;

/// What must stay free of a disk: a part of it, an amount, or whichever of both is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMark {
    /// Hundredths of the whole.
    pub percent: Option<u8>,
    /// Bytes.
    pub bytes: Option<MemoryBytes>,
}

impl DiskMark {
    /// Most of a disk that may be asked to stay free, in percent.
    pub const MAX_PERCENT: u8 = 90;

    /// Reads `15%`, `50GiB` or `15% or 50GiB`.
    ///
    /// # Errors
    /// Names `field` when the text is none of these.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let fault = || FieldFault::new(field, "must be what is to stay free, such as 15%, 50GiB, or 15% or 50GiB (whichever is less), at most 90%");
        let percent = |text: &str| text.trim().strip_suffix('%')?.trim().parse().ok().filter(|percent| *percent <= Self::MAX_PERCENT);
        let (part, amount) = match text.split_once(" or ") {
            Some((part, amount)) => (Some(part), Some(amount)),
            None if text.contains('%') => (Some(text), None),
            None => (None, Some(text)),
        };
        let mark = Self {
            percent: part.map(|text| percent(text).ok_or_else(fault)).transpose()?,
            bytes: amount.map(|text| MemoryBytes::parse(field, text).map_err(|_| fault())).transpose()?,
        };
        Ok(mark)
    }

    /// The mark on a disk of `total` bytes.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        let part = self.percent.map(|percent| total / 100 * u64::from(percent));
        let amount = self.bytes.map(|bytes| bytes.0);
        part.into_iter().chain(amount).min().unwrap_or(0)
    }

    /// Whether it lies above `other` on every disk, or cannot be told from it.
    #[must_use]
    pub fn is_above(self, other: Self) -> bool {
        self.percent.zip(other.percent).is_some_and(|(one, other)| one > other) || self.bytes.zip(other.bytes).is_some_and(|(one, other)| one > other)
    }
}

impl fmt::Display for DiskMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent, self.bytes) {
            (Some(percent), Some(bytes)) => write!(f, "{percent}% or {bytes}"),
            (Some(percent), None) => write!(f, "{percent}%"),
            (None, Some(bytes)) => write!(f, "{bytes}"),
            (None, None) => f.write_str("0"),
        }
    }
}

/// The two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMarks {
    /// Below it room is made.
    pub low: DiskMark,
    /// Below it no new work begins.
    pub full: DiskMark,
}

impl Default for DiskMarks {
    fn default() -> Self {
        let mark = |percent, gib: u64| DiskMark { percent: Some(percent), bytes: Some(MemoryBytes(gib << 30)) };
        Self { low: mark(15, 50), full: mark(5, 5) }
    }
}

/// How a file system stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Bytes it can hold.
    pub total: u64,
    /// Bytes that those who are not root may still write.
    pub free: u64,
    /// Files it can hold; 0 where it makes room for them as needed.
    pub inodes: u64,
    /// Files that may still be made.
    pub inodes_free: u64,
}

impl fmt::Display for DiskUse {
    /// What is free of what; of its files only where few are left.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, free, inodes, inodes_free } = self;
        write!(f, "{} MiB of {} MiB are free", free >> 20, total >> 20)?;
        if *inodes > 0 && *inodes_free < inodes / 10 {
            write!(f, ", and {inodes_free} of {inodes} files")?;
        }
        Ok(())
    }
}

/// How near its end a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DiskState {
    /// There is room.
    #[default]
    Fine,
    /// Room is made: images that were not used lately go.
    Low,
    /// Nothing new begins.
    Full,
}

impl DiskState {
    /// Every state, from good to bad.
    pub const ALL: [Self; 3] = [Self::Fine, Self::Low, Self::Full];

    /// The name in answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Low => "low",
            Self::Full => "full",
        }
    }
}

/// Part of a disk's files, in percent, that must stay free at either mark.
pub const LOW_INODES: u64 = 10;
/// See [`LOW_INODES`].
pub const FULL_INODES: u64 = 3;
/// A state is left only when a mark is passed by this part of it: one in four.
const BAND: u64 = 4;

/// How near its end a disk is that stood at `before`.
#[must_use]
pub fn judge(now: DiskUse, marks: DiskMarks, before: DiskState) -> DiskState {
    let full = marks.full.of(now.total);
    let low = marks.low.of(now.total).max(full);
    let below = |mark: u64, percent: u64, band: bool| {
        let (mark, percent) = if band { (widened(mark), widened(percent)) } else { (mark, percent) };
        // The band may not reach beyond the whole disk, or a state could never be left.
        now.free < mark.min(now.total) || (now.inodes > 0 && now.inodes_free.saturating_mul(100) < now.inodes.saturating_mul(percent))
    };
    if below(full, FULL_INODES, before == DiskState::Full) {
        DiskState::Full
    } else if below(low, LOW_INODES, before != DiskState::Fine) {
        DiskState::Low
    } else {
        DiskState::Fine
    }
}

fn widened(mark: u64) -> u64 {
    mark.saturating_add(mark.div_ceil(BAND))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::DiskState::{Fine, Full, Low};
    use super::*;

    fn marks(low: &str, full: &str) -> DiskMarks {
        DiskMarks { low: DiskMark::parse("low", low).expect("a mark"), full: DiskMark::parse("full", full).expect("a mark") }
    }

    fn space(total: u64, free: u64) -> DiskUse {
        DiskUse { total, free, inodes: 0, inodes_free: 0 }
    }

    #[test]
    fn a_mark_is_a_part_an_amount_or_the_lesser_of_both() {
        let of = |text: &str, total| DiskMark::parse("m", text).expect("a mark").of(total);
        assert_eq!((of("10%", 1000), of("300B", 1000), of("0%", 1000)), (100, 300, 0));
        assert_eq!((of("10% or 50B", 1000), of("10% or 50B", 100)), (50, 10));
        assert_eq!(DiskMark::parse("m", "15% or 50GiB").expect("a mark").to_string(), "15% or 50GiB");
        for bad in ["", "%", "91%", "-1%", "1.5%", "50GiB or 15%", "15% or", "15% 50GiB", "or", "0", "lots"] {
            assert!(DiskMark::parse("m", bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_disk_that_hovers_at_a_mark_does_not_flap() {
        let marks = marks("20%", "10%");
        let after = |frees: &[u64]| {
            let mut state = DiskState::Fine;
            let step = |free: &u64| {
                state = judge(space(1000, *free), marks, state);
                state
            };
            frees.iter().map(step).collect::<Vec<_>>()
        };
        assert_eq!(after(&[200, 199, 200, 249, 250, 249]), [Fine, Low, Low, Low, Fine, Fine]);
        assert_eq!(after(&[99, 100, 124, 125, 99]), [Full, Full, Full, Low, Full]);
        assert_eq!(after(&[0, 1000, 0]), [Full, Fine, Full]);
    }

    #[test]
    fn files_run_out_too_where_a_disk_counts_them() {
        let of = |inodes, inodes_free| judge(DiskUse { inodes, inodes_free, ..space(1000, 1000) }, DiskMarks::default(), DiskState::Fine);
        assert_eq!((of(1000, 100), of(1000, 99), of(1000, 29)), (DiskState::Fine, DiskState::Low, DiskState::Full));
        assert_eq!(of(0, 0), DiskState::Fine, "this one makes room for files as needed");
    }

    fn any_mark() -> impl Strategy<Value = DiskMark> {
        (prop::option::of(0_u8..=90), prop::option::of(0_u64..2000)).prop_map(|(percent, bytes)| DiskMark { percent, bytes: bytes.map(MemoryBytes) })
    }

    fn any_state() -> impl Strategy<Value = DiskState> {
        prop::sample::select(DiskState::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn less_room_is_never_better_and_no_state_is_for_ever(
            total in 1_u64..2000, less in 0_u64..2000, more in 0_u64..2000, low in any_mark(), full in any_mark(), before in any_state(),
        ) {
            let marks = DiskMarks { low, full };
            let (less, more) = (less.min(more).min(total), less.max(more).min(total));
            let of = |free, before| judge(space(total, free), marks, before);
            prop_assert!(of(less, before) >= of(more, before));
            prop_assert_eq!(of(total, before), DiskState::Fine, "an empty disk has room");
            // What was bad before makes nothing better, and the same facts twice change nothing.
            prop_assert!(of(less, DiskState::Full) >= of(less, DiskState::Low) && of(less, DiskState::Low) >= of(less, DiskState::Fine));
            prop_assert_eq!(of(less, of(less, before)), of(less, before));
            // At once, whatever was before.
            if less < full.of(total).min(total) {
                prop_assert_eq!(of(less, before), DiskState::Full);
            }
        }
    }
}
