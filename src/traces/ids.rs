//! The ids of a trace and its spans: made of the job's id alone.

use std::fmt;

use crate::domain::JobId;

/// A trace's id; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// A span's id, unique in its trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl TraceId {
    /// The job's own id, which is as long as a trace's, so that either is found by the other. An id of another form is digested.
    #[must_use]
    pub fn of(job: &JobId) -> Self {
        let own = Some(job.as_str()).filter(|text| text.len() == 32).and_then(|text| u128::from_str_radix(text, 16).ok());
        let digest = || u128::from(digest(job.as_str(), "high")) << 64 | u128::from(digest(job.as_str(), "low"));
        Self(own.filter(|id| *id != 0).unwrap_or_else(digest))
    }

    /// Whether the trace belongs to the part that is sent, `ratio` being from 0 to 1: the same answer at every try and on every machine.
    /// Only the last 32 bits of our ids are random; those before count, when several are made in one millisecond.
    #[must_use]
    pub fn is_sampled(self, ratio: f64) -> bool {
        let random = u32::try_from(self.0 & u128::from(u32::MAX)).unwrap_or(u32::MAX);
        f64::from(random) / (f64::from(u32::MAX) + 1.0) < ratio
    }
}

impl SpanId {
    /// The span of a job at this place in its trace, for example `attempt/2/run`.
    #[must_use]
    pub fn of(job: &JobId, place: &str) -> Self {
        Self(digest(job.as_str(), place).max(1))
    }
}

/// FNV-1a over both texts: ids have to be the same again, not secret.
fn digest(job: &str, place: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    job.bytes().chain([b'/']).chain(place.bytes()).fold(0xcbf2_9ce4_8422_2325, step)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_found_by_its_jobs_id() {
        let job = JobId::generate();
        assert_eq!(TraceId::of(&job).to_string(), job.as_str());
        let other = TraceId::of(&JobId::from_trusted("build-7")).to_string();
        assert!(other.len() == 32 && other != "0".repeat(32) && other == TraceId::of(&JobId::from_trusted("build-7")).to_string());
        assert_ne!(TraceId::of(&JobId::from_trusted("0".repeat(32))).to_string(), "0".repeat(32));
    }

    #[test]
    fn spans_of_one_place_are_the_same_and_of_others_are_not() {
        let (one, two) = (JobId::from_trusted("a"), JobId::from_trusted("b"));
        assert_eq!(SpanId::of(&one, "attempt/1"), SpanId::of(&one, "attempt/1"));
        assert_ne!(SpanId::of(&one, "attempt/1"), SpanId::of(&one, "attempt/2"));
        assert_ne!(SpanId::of(&one, "attempt/1"), SpanId::of(&two, "attempt/1"));
    }

    #[test]
    fn a_part_of_the_jobs_is_about_that_part() {
        let sampled = |ratio: f64| (0..2000).filter(|_| TraceId::of(&JobId::generate()).is_sampled(ratio)).count();
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        assert!((350..650).contains(&sampled(0.25)), "a quarter of 2000");
    }
}
