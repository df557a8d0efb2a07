//! What may be done: the one way to make a [`HardenedProfile`].

pub mod profile;

pub use profile::{Exec, HardenedProfile, NetworkAccess, ProfileRequest, TmpfsMount};

use crate::domain::FieldFault;

/// Turns the administrator's decisions into a profile, which a container cannot be made without.
///
/// # Errors
/// Names the field of the request that no container may have.
pub fn harden(request: ProfileRequest) -> Result<HardenedProfile, FieldFault> {
    HardenedProfile::new(request)
}
