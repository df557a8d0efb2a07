//! Which GPUs a job asks for, and whether a GPU is such a one.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::amount::MemoryBytes;
use super::arch::GpuVendor;
use super::fault::FieldFault;
use super::gpu::{Gpu, Sharing};
use super::image_pattern::glob;

/// GPUs that a job asks for: all of them for itself, or a share of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GpuRequest {
    /// How many, 1 to 64.
    pub count: u32,
    /// Whose; `None` takes any vendor's, but all of one vendor.
    pub vendor: Option<GpuVendor>,
    /// Least memory of each.
    pub min_memory: Option<MemoryBytes>,
    /// The model of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelPattern>,
    /// Least compute capability of each; NVIDIA only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<ComputeCapability>,
    /// NVIDIA MIG profile of each, for example `1g.10gb`.
    pub mig_profile: Option<String>,
    /// So much of one GPU's memory, beside other jobs on it; `None` asks for GPUs of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<MemoryBytes>,
}

impl GpuRequest {
    /// Most GPUs that one job may ask for.
    pub const MAX_COUNT: u32 = 64;

    /// So many, whatever they are.
    #[must_use]
    pub fn any(count: u32) -> Self {
        Self { count, vendor: None, min_memory: None, model: None, compute_capability: None, mig_profile: None, share: None }
    }

    /// Checks a count from outside.
    ///
    /// # Errors
    /// Names `field` when the count is not 1 to 64.
    pub fn checked_count(field: &str, count: i64) -> Result<u32, FieldFault> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=Self::MAX_COUNT).contains(count))
            .ok_or_else(|| FieldFault::new(field, format!("must be 1 to {}", Self::MAX_COUNT)))
    }

    /// Checks the name of a MIG profile from outside: `1g.10gb`, `1g.10gb+me`.
    ///
    /// # Errors
    /// Names `field` when the text cannot be one.
    pub fn checked_mig_profile(field: &str, text: &str) -> Result<String, FieldFault> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
        let good = text.len() <= 32 && text.chars().all(legal) && text.starts_with(|c: char| c.is_ascii_digit());
        if good { Ok(text.to_owned()) } else { Err(FieldFault::new(field, "must be a MIG profile such as 1g.10gb")) }
    }

    /// The vendors that will do.
    #[must_use]
    pub fn vendors(&self) -> Vec<GpuVendor> {
        self.vendor.map_or_else(|| GpuVendor::ALL.to_vec(), |vendor| vec![vendor])
    }

    /// The fields that only NVIDIA's cards can meet, where the request is not for NVIDIA's.
    pub fn only_nvidia(&self) -> impl Iterator<Item = &'static str> {
        let elsewhere = self.vendor != Some(GpuVendor::Nvidia);
        let given = [("mig_profile", self.mig_profile.is_some()), ("compute_capability", self.compute_capability.is_some())];
        given.into_iter().filter(move |(_, given)| *given && elsewhere).map(|(name, _)| name)
    }

    /// What contradicts a share: fields with what is wrong with them. `exclusive` is what was said of it, if anything.
    pub fn against_share(&self, exclusive: Option<bool>) -> Vec<(&'static str, &'static str)> {
        if self.share.is_none() {
            return Vec::from_iter(
                (exclusive == Some(false)).then_some(("memory", "is needed where exclusive is false: how much of one GPU's memory")),
            );
        }
        let no_share = [
            ("count", "must be 1 with memory: a share is of one GPU", self.count != 1),
            ("mig_profile", "must not be given with memory: a MIG instance is a share that the hardware makes", self.mig_profile.is_some()),
            ("min_memory", "must not be given with memory, which says how much is needed", self.min_memory.is_some()),
            ("exclusive", "must be false with memory, which asks for a share", exclusive == Some(true)),
            ("memory", "must be more than nothing", self.share == Some(MemoryBytes(0))),
        ];
        no_share.into_iter().filter(|(.., wrong)| *wrong).map(|(field, message, _)| (field, message)).collect()
    }

    /// Whether a GPU is of the kind, whoever has it now. What its driver does not tell meets no wish.
    #[must_use]
    pub fn is_met_by(&self, gpu: &Gpu) -> bool {
        self.vendor.is_none_or(|vendor| gpu.vendor == vendor)
            && self.min_memory.is_none_or(|least| gpu.memory.known().is_some_and(|memory| *memory >= least))
            && self.model.as_ref().is_none_or(|pattern| gpu.model.known().is_some_and(|model| pattern.matches(model)))
            && self.compute_capability.is_none_or(|least| ComputeCapability::of(gpu).is_some_and(|capability| capability >= least))
            && gpu.mig_profile() == self.mig_profile.as_deref()
            && self.share.is_none_or(|share| gpu.sharing == Sharing::Open && gpu.memory.known().is_some_and(|memory| *memory >= share))
    }

    /// A text that is equal exactly for equal requests, part of [`super::Requirement::key`].
    pub(super) fn key(&self) -> String {
        let vendor = self.vendor.map_or("any", GpuVendor::as_str);
        let memory = self.min_memory.map_or(0, |memory| memory.0);
        let mut key = format!("{}x{vendor}>={memory}:{}", self.count, self.mig_profile.as_deref().unwrap_or(""));
        if let Some(capability) = self.compute_capability {
            let _ = write!(key, ";compute={capability}");
        }
        if let Some(share) = self.share {
            let _ = write!(key, ";share={}", share.0);
        }
        if let Some(model) = &self.model {
            // Its text is free, so it is written as a quoted one.
            let _ = write!(key, ";model={:?}", model.as_str());
        }
        key
    }
}

/// A pattern for the names of models, with `*` for any text, in capital or small letters: `*A100*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelPattern(String);

impl ModelPattern {
    /// Longest pattern; longer than any model's name.
    pub const MAX_BYTES: usize = 128;

    /// Checks a pattern from outside.
    ///
    /// # Errors
    /// Names `field` when the text is empty, too long or holds what no name does.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let legal = |c: char| c.is_ascii_graphic() || c == ' ';
        if text.trim().is_empty() || text.len() > Self::MAX_BYTES || !text.chars().all(legal) {
            let rule = format!("must be a pattern of model names such as \"*A100*\", of 1 to {} printable ASCII characters", Self::MAX_BYTES);
            return Err(FieldFault::new(field, rule));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the whole name is meant.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        glob(self.0.to_ascii_lowercase().as_bytes(), model.to_ascii_lowercase().as_bytes())
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What NVIDIA's programs are compiled for, `8.6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ComputeCapability {
    major: u8,
    minor: u8,
}

impl ComputeCapability {
    /// Checks one from outside.
    ///
    /// # Errors
    /// Names `field` when it is not two numbers with a dot between them.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u8>().ok()).flatten();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| FieldFault::new(field, "must be a compute capability such as \"8.0\""))
    }

    /// That of a GPU; other vendors' have none.
    #[must_use]
    pub fn of(gpu: &Gpu) -> Option<Self> {
        gpu.compute.known().filter(|_| gpu.vendor == GpuVendor::Nvidia).and_then(|text| Self::parse("compute", text).ok())
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl From<ComputeCapability> for String {
    fn from(capability: ComputeCapability) -> Self {
        capability.to_string()
    }
}

impl TryFrom<String> for ComputeCapability {
    type Error = FieldFault;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse("compute_capability", &text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_model_is_found_by_its_pattern_in_any_case() {
        for (pattern, model, so) in [
            ("*A100*", "NVIDIA A100-SXM4-80GB", true),
            ("nvidia a100*", "NVIDIA A100-SXM4-80GB", true),
            ("A100", "NVIDIA A100-SXM4-80GB", false),
            ("*h100*", "NVIDIA A100-SXM4-80GB", false),
            ("*", "anything", true),
        ] {
            assert_eq!(ModelPattern::parse("f", pattern).expect("a pattern").matches(model), so, "{pattern}");
        }
        for bad in ["", "  ", "a\nb", "é", &"x".repeat(129)] {
            assert!(ModelPattern::parse("f", bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn capabilities_compare_as_numbers() {
        let read = |text: &str| ComputeCapability::parse("f", text).expect("a capability");
        assert!(read("10.0") > read("9.0") && read("8.10") > read("8.6") && read("8.0") < read("8.6"));
        for bad in ["", "8", "8.", ".0", "8.0.0", "+8.0", "gfx90a", "256.0", "-1.0"] {
            assert!(ComputeCapability::parse("f", bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn what_was_stored_before_there_were_models_is_read_and_has_the_same_key() {
        let old = r#"{"count":1,"vendor":"nvidia","min_memory":1024,"mig_profile":null}"#;
        let request: GpuRequest = serde_json::from_str(old).expect("read");
        assert_eq!(request, GpuRequest { vendor: Some(GpuVendor::Nvidia), min_memory: Some(MemoryBytes(1024)), ..GpuRequest::any(1) });
        assert_eq!((serde_json::to_string(&request).expect("written").as_str(), request.key().as_str()), (old, "1xnvidia>=1024:"));
    }

    proptest! {
        #[test]
        fn requests_with_equal_keys_are_equal(one in request(), other in request()) {
            prop_assert_eq!(one.key() == other.key(), one == other);
            let back: GpuRequest = serde_json::from_str(&serde_json::to_string(&one).expect("written")).expect("read");
            prop_assert_eq!(back, one);
        }
    }

    fn request() -> impl Strategy<Value = GpuRequest> {
        let capability = prop::option::of((0_u8..2, 0_u8..2).prop_map(|(major, minor)| ComputeCapability { major, minor }));
        let model = prop::option::of("[a;=\"*]{1,2}".prop_map(ModelPattern));
        let share = prop::option::of((0_u64..3).prop_map(MemoryBytes));
        (1_u32..3, model, capability, share).prop_map(|(count, model, compute_capability, share)| GpuRequest {
            model,
            compute_capability,
            share,
            ..GpuRequest::any(count)
        })
    }
}
