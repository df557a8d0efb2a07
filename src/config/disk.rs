//! `[disk]` and `[images]`: how full the machine's disks may become, and which images may go for it.

use std::time::Duration;

use super::section::Section;
use super::values::{DAY, HOUR, duration};
use crate::domain::{DiskMark, DiskMarks, ImagePattern};

/// Which images may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Images {
    /// `images.max_age`, default none: an image that was not used for so long goes, also while there is room.
    pub max_age: Option<Duration>,
    /// `images.pinned`, default none: patterns of images that never go.
    pub pinned: Vec<ImagePattern>,
}

/// Reads `[disk]`.
pub(super) fn read(section: &mut Section<'_>) -> DiskMarks {
    let base = DiskMarks::default();
    let marks = DiskMarks {
        low: section.parsed("low", DiskMark::parse).unwrap_or(base.low),
        full: section.parsed("full", DiskMark::parse).unwrap_or(base.full),
    };
    if marks.full.is_above(marks.low) {
        section.fault("full", format!("must not be above disk.low, which is {}", marks.low));
    }
    marks
}

/// Reads `[images]`.
pub(super) fn images(section: &mut Section<'_>) -> Images {
    let max_age = section.parsed("max_age", duration(HOUR..=3650 * DAY));
    let texts = section.texts("pinned");
    let pinned = texts.iter().filter_map(|text| section.note("pinned", ImagePattern::parse("pinned", text))).collect();
    Images { max_age, pinned }
}

#[cfg(test)]
mod tests {
    use crate::config::fixture::load;

    #[test]
    fn the_marks_keep_their_order() {
        assert!(load("[disk]\nlow = \"20%\"\nfull = \"1GiB\"\n[images]\npinned = [\"debian:*\"]\nmax_age = \"7days\"").is_ok());
        for (low, full) in [("5%", "6%"), ("1GiB", "2GiB"), ("5% or 2GiB", "5% or 3GiB")] {
            let faults = load(&format!("[disk]\nlow = \"{low}\"\nfull = \"{full}\"")).expect_err("a fault");
            assert!(faults.contains("disk.full must not be above disk.low"), "{faults}");
        }
        assert!(load("[images]\npinned = [\"a b\"]").expect_err("a fault").contains("images.pinned"));
    }
}
