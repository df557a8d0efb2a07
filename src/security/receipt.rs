//! Receipts: the proof of a job's end that the first process of its container signs with a key of that one attempt (`init/main.rs`).

use ring::hmac;
use secrecy::{ExposeSecret as _, SecretString};

use super::token::{from_hex, hex};
use crate::domain::{HowEnded, Proven, ProvenEnd, ReceiptOf};

/// Derives the keys of attempts, so that nothing has to be stored, and reads receipts.
pub(super) struct ReceiptKeys(pub(super) hmac::Key);

impl ReceiptKeys {
    /// What the container's first process needs: `JOB ATTEMPT NONCE KEY`.
    pub(super) fn ticket(&self, of: &ReceiptOf<'_>) -> SecretString {
        let ReceiptOf { job, attempt, nonce } = of;
        SecretString::from(format!("{job} {attempt} {nonce} {}", self.key(of).expose_secret()))
    }

    /// What a receipt proves; `None` for a text that is not the receipt of this attempt, whole and signed.
    pub(super) fn verify(&self, of: &ReceiptOf<'_>, text: &[u8]) -> Option<Proven> {
        let text = std::str::from_utf8(text).ok()?;
        let at = text.find("proof ")?;
        let (signed, proof) = text.split_at_checked(at)?;
        let proof = from_hex(proof.strip_prefix("proof ")?.strip_suffix('\n')?)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key(of).expose_secret().as_bytes());
        hmac::verify(&key, signed.as_bytes(), &proof).ok()?;
        let ReceiptOf { job, attempt, nonce } = of;
        read(signed.strip_prefix(&format!("receipt 1\njob {job}\nattempt {attempt}\nnonce {nonce}\n"))?)
    }

    fn key(&self, of: &ReceiptOf<'_>) -> SecretString {
        let ReceiptOf { job, attempt, nonce } = of;
        SecretString::from(hex(hmac::sign(&self.0, format!("{job} {attempt} {nonce}").as_bytes()).as_ref()))
    }
}

fn read(end: &str) -> Option<Proven> {
    if end == "end none\ntold yes\n" {
        return Some(Proven::Told);
    }
    let (how, told) = end.strip_prefix("end ")?.strip_suffix('\n')?.split_once("\ntold ")?;
    let how = match how.split_once(' ')? {
        ("exit", code) => HowEnded::Exit(code.parse().ok()?),
        ("signal", signal) => HowEnded::Signal(signal.parse().ok()?),
        _ => return None,
    };
    let told = match told {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    Some(Proven::Ended(ProvenEnd { how, told }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::JobId;

    fn keys() -> ReceiptKeys {
        ReceiptKeys(hmac::Key::new(hmac::HMAC_SHA256, b"a key of tests"))
    }

    /// As the first process writes it; `tests/it/init.rs` holds the real one to the same reading.
    fn receipt(keys: &ReceiptKeys, of: &ReceiptOf<'_>, end: &str) -> String {
        let ReceiptOf { job, attempt, nonce } = of;
        let signed = format!("receipt 1\njob {job}\nattempt {attempt}\nnonce {nonce}\n{end}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, keys.key(of).expose_secret().as_bytes());
        format!("{signed}proof {}\n", hex(hmac::sign(&key, signed.as_bytes()).as_ref()))
    }

    #[test]
    fn a_receipt_proves_the_end_of_its_attempt_and_of_no_other() {
        let (keys, job, other) = (keys(), JobId::from_trusted("j1"), JobId::from_trusted("j2"));
        let of = ReceiptOf { job: &job, attempt: 1, nonce: "n" };
        let text = receipt(&keys, &of, "end exit 3\ntold no\n");
        assert_eq!(keys.verify(&of, text.as_bytes()), Some(Proven::Ended(ProvenEnd { how: HowEnded::Exit(3), told: false })));
        let killed = receipt(&keys, &of, "end signal 9\ntold yes\n");
        assert_eq!(keys.verify(&of, killed.as_bytes()), Some(Proven::Ended(ProvenEnd { how: HowEnded::Signal(9), told: true })));
        let runs_on = receipt(&keys, &of, "end none\ntold yes\n");
        assert_eq!(keys.verify(&of, runs_on.as_bytes()), Some(Proven::Told));
        for wrong in [ReceiptOf { job: &other, ..of.clone() }, ReceiptOf { attempt: 2, ..of.clone() }, ReceiptOf { nonce: "m", ..of.clone() }] {
            assert_eq!(keys.verify(&wrong, text.as_bytes()), None, "{wrong:?}");
        }
        let stranger = ReceiptKeys(hmac::Key::new(hmac::HMAC_SHA256, b"another key"));
        assert_eq!(stranger.verify(&of, text.as_bytes()), None);
        assert!(keys.ticket(&of).expose_secret().starts_with("j1 1 n "));
    }

    #[test]
    fn what_is_signed_but_says_nothing_we_know_proves_nothing() {
        let (keys, job) = (keys(), JobId::from_trusted("j"));
        let of = ReceiptOf { job: &job, attempt: 1, nonce: "n" };
        for end in [
            "",
            "end exit 256\ntold no\n",
            "end exit -1\ntold no\n",
            "end fine\ntold no\n",
            "end exit 0\n",
            "end none\ntold no\n",
            "end exit 0\ntold maybe\n",
            "end exit 0\ntold no",
        ] {
            assert_eq!(keys.verify(&of, receipt(&keys, &of, end).as_bytes()), None, "{end:?}");
        }
    }

    proptest! {
        /// No change of a receipt leaves one: neither a byte turned, nor a piece cut off or put on.
        #[test]
        fn a_receipt_that_was_touched_proves_nothing(at in 0_usize..250, flip in 1_u8..=255, cut in 0_usize..250, more in prop::collection::vec(any::<u8>(), 1..20)) {
            let (keys, job) = (keys(), JobId::from_trusted("0198c0de"));
            let of = ReceiptOf { job: &job, attempt: 1, nonce: "n" };
            let whole = receipt(&keys, &of, "end exit 0\ntold no\n").into_bytes();
            let mut turned = whole.clone();
            let at = at % turned.len();
            turned[at] ^= flip;
            prop_assert_eq!(keys.verify(&of, &turned), None);
            prop_assert_eq!(keys.verify(&of, &whole[..cut % whole.len()]), None);
            prop_assert_eq!(keys.verify(&of, &[whole, more].concat()), None);
        }
    }
}
