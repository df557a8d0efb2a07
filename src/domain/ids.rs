//! Identities as types, so that one kind cannot be passed for another.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::FieldFault;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a text that is already known to be such an id: a stored row, a label of ours, a path segment to look up.
            pub fn from_trusted(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

string_id! {
    /// A job of ours. Opaque to clients; made so that later ids sort after earlier ones.
    JobId
}
string_id! {
    /// A runner: one container of ours, from its planning to its removal.
    RunnerId
}
string_id! {
    /// A machine of the fleet, by its configured name.
    HostId
}
string_id! {
    /// The name of a class of runners in the configuration.
    ClassName
}
string_id! {
    /// The project on whose behalf a job runs, for example `team/app`.
    ProjectName
}
string_id! {
    /// One GPU or partition of a GPU, by the vendor's stable id (for NVIDIA the UUID).
    GpuId
}

/// The end of a coordinator's id, by which what it makes beside containers is called: that is random, and the id's beginning is a time, which two
/// coordinators may share.
#[must_use]
pub fn short_instance(instance: &str) -> String {
    let plain: String = instance.chars().filter(char::is_ascii_alphanumeric).collect();
    plain.get(plain.len().saturating_sub(12)..).unwrap_or(&plain).to_owned()
}

/// A requirement as the store numbers it: equal requirements have one id, so that the queue can be kept by requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequirementId(pub i64);

impl JobId {
    /// A new id, later in order than those made before on this machine.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().simple().to_string())
    }

    /// When it was made, by the clock of that moment; `None` of one that [`JobId::generate`] did not make.
    #[must_use]
    pub fn made_at(&self) -> Option<Timestamp> {
        let id = Uuid::try_parse(&self.0).ok().filter(|id| id.get_version_num() == 7)?;
        // The first 48 bits count milliseconds (RFC 9562, section 5.7).
        Timestamp::from_millisecond(i64::try_from(id.as_u128() >> 80).ok()?).ok()
    }
}

impl RunnerId {
    /// A new id, later in order than those made before on this machine.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().simple().to_string())
    }
}

impl ClassName {
    /// Checks a name from outside: 1 to 63 letters, digits, `.`, `_` or `-`, beginning with a letter or digit.
    ///
    /// # Errors
    /// Names `field` when the text is not such a name.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if first && text.len() <= 63 && text.chars().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FieldFault::new(field, "must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"))
        }
    }
}

impl ProjectName {
    /// Longest accepted name, in characters (GitLab's own limit for a full path is 255 per part; this is a bound on what we store).
    pub const MAX_CHARS: usize = 512;

    /// Checks a name from outside: not empty, not too long, no control characters.
    ///
    /// # Errors
    /// Names `field` when the text is not such a name.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        if text.trim().is_empty() || text.chars().count() > Self::MAX_CHARS || text.chars().any(char::is_control) {
            return Err(FieldFault::new(field, format!("must be 1 to {} characters, none of them a control character", Self::MAX_CHARS)));
        }
        Ok(Self(text.to_owned()))
    }
}
