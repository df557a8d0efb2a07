//! Comparison of secrets whose time does not depend on where, or by how much in length, they differ.

use ring::error::Unspecified;
use ring::hmac;
use ring::rand::SecureRandom;

/// Compares by HMAC under a key that only this process knows.
pub(super) struct Comparer(hmac::Key);

/// An expected secret, as it is compared.
pub(super) struct Fingerprint(hmac::Tag);

impl Comparer {
    pub(super) fn new(random: &dyn SecureRandom) -> Result<Self, Unspecified> {
        hmac::Key::generate(hmac::HMAC_SHA256, random).map(Self)
    }

    pub(super) fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        Fingerprint(hmac::sign(&self.0, secret))
    }

    /// Whether `given` is the expected secret.
    pub(super) fn matches(&self, given: &[u8], expected: &Fingerprint) -> bool {
        hmac::verify(&self.0, given, expected.0.as_ref()).is_ok()
    }
}
