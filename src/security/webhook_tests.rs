//! Tests of signed webhooks: a published example, the rules one by one, and that nothing changed gets through.

use proptest::prelude::*;
use ring::rand::SystemRandom;

use super::*;

/// The example that the Standard Webhooks specification's own libraries test with.
const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const AT: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

/// What decides, with these keys and secrets configured.
struct Judge {
    comparer: Comparer,
    rule: WebhookRule,
}

impl Judge {
    fn new(keys: &[&[u8]], secrets: &[&str]) -> Self {
        let gitlab = GitLab {
            webhook_signing_keys: keys.iter().map(|key| SecretSlice::from(key.to_vec())).collect(),
            webhook_secret_tokens: secrets.iter().map(|secret| SecretString::from(*secret)).collect(),
            ..GitLab::at("https://gitlab.example.com")
        };
        let comparer = Comparer::new(&SystemRandom::new()).expect("random bytes");
        let rule = WebhookRule::new(&comparer, Some(&gitlab));
        Self { comparer, rule }
    }

    /// A judge of the published example.
    fn of_example(secrets: &[&str]) -> Self {
        Self::new(&[&BASE64.decode(KEY).expect("base64")], secrets)
    }

    fn verdict(&self, headers: WebhookHeaders<'_>, body: &[u8], now: i64) -> Result<(), WebhookDenied> {
        self.rule.verify(&self.comparer, headers, body, Timestamp::from_second(now).expect("a time"))
    }
}

fn signed<'a>(id: &'a str, at: &'a str, signature: &'a str) -> WebhookHeaders<'a> {
    WebhookHeaders { id: Some(id.as_bytes()), timestamp: Some(at.as_bytes()), signature: Some(signature.as_bytes()), token: None }
}

/// What GitLab would send, made without the code under test.
pub(crate) fn sign(key: &[u8], id: &str, at: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    format!("v1,{}", BASE64.encode(hmac::sign(&key, &[id.as_bytes(), b".", at.as_bytes(), b".", body].concat())))
}

#[test]
fn the_published_example_passes() {
    let at = AT.to_string();
    assert_eq!(Judge::of_example(&[]).verdict(signed(ID, &at, SIGNATURE), BODY, AT), Ok(()));
    // GitLab's form, whose key has 32 bytes; computed with another HMAC.
    let key: Vec<u8> = (0..32).collect();
    let headers = signed("ab8cc5c1-4f0b-4c1a-9f0e-6a2f5b6c7d8e", "1795000000", "v1,p6dHzSwjG6qIwj7TmZyQ2TBmWikJehpyXeEPNzI2G4k=");
    assert_eq!(Judge::new(&[&key], &[]).verdict(headers, br#"{"object_kind":"build"}"#, 1_795_000_000), Ok(()));
}

#[test]
fn one_of_several_signatures_is_enough() {
    let (judge, at) = (Judge::of_example(&[]), AT.to_string());
    let wrong = SIGNATURE.replace("g0", "g1");
    let verdict = |signatures: &str| judge.verdict(signed(ID, &at, signatures), BODY, AT);
    for good in [format!("{wrong} {SIGNATURE}"), format!("{SIGNATURE} {wrong}"), format!("v1a,x  v2,{} {SIGNATURE}", &SIGNATURE[3..])] {
        assert_eq!(verdict(&good), Ok(()), "{good}");
    }
    let bare = &SIGNATURE[3..];
    let late = format!("{}{SIGNATURE}", format!("{wrong} ").repeat(MAX_SIGNATURES));
    let refused = [&wrong, "", " ", "v1,", "v1", bare, &format!("v2,{bare}"), &format!("V1,{bare}"), &SIGNATURE[..SIGNATURE.len() - 1], &late];
    for bad in refused {
        assert_eq!(verdict(bad), Err(WebhookDenied::WrongSignature), "{bad}");
    }
}

#[test]
fn the_clocks_may_differ_by_five_minutes() {
    let (judge, at) = (Judge::of_example(&[]), AT.to_string());
    for (seconds, verdict) in
        [(0, Ok(())), (300, Ok(())), (-300, Ok(())), (301, Err(WebhookDenied::OutOfTime)), (-301, Err(WebhookDenied::OutOfTime))]
    {
        assert_eq!(judge.verdict(signed(ID, &at, SIGNATURE), BODY, AT + seconds), verdict, "{seconds}");
    }
    let key = BASE64.decode(KEY).expect("base64");
    for (at, denied) in [
        ("soon", WebhookDenied::BadTimestamp),
        ("1614265330.5", WebhookDenied::BadTimestamp),
        ("99999999999999999999", WebhookDenied::BadTimestamp),
        ("9223372036854775807", WebhookDenied::OutOfTime),
        ("-9223372036854775808", WebhookDenied::OutOfTime),
        ("0", WebhookDenied::OutOfTime),
    ] {
        assert_eq!(judge.verdict(signed(ID, at, &sign(&key, ID, at, BODY)), BODY, AT), Err(denied), "{at}");
    }
}

#[test]
fn a_signature_without_what_it_signs_is_refused() {
    let (judge, at) = (Judge::of_example(&["secret"]), AT.to_string());
    let whole = WebhookHeaders { token: Some(b"secret"), ..signed(ID, &at, SIGNATURE) };
    for part in [None, Some(b"".as_slice())] {
        let without_id = WebhookHeaders { id: part, ..whole };
        let without_time = WebhookHeaders { timestamp: part, ..whole };
        assert_eq!(judge.verdict(without_id, BODY, AT), Err(WebhookDenied::IncompleteSignature));
        assert_eq!(judge.verdict(without_time, BODY, AT), Err(WebhookDenied::IncompleteSignature));
    }
}

#[test]
fn a_signature_that_does_not_hold_never_falls_back_to_the_secret() {
    let at = AT.to_string();
    let wrong = WebhookHeaders { token: Some(b"secret"), ..signed(ID, &at, "v1,AAAA") };
    let both = Judge::of_example(&["secret"]);
    assert_eq!(both.verdict(wrong, BODY, AT), Err(WebhookDenied::WrongSignature));
    assert_eq!(both.verdict(WebhookHeaders { signature: Some(b""), ..wrong }, BODY, AT), Err(WebhookDenied::WrongSignature));
    let old = WebhookHeaders { signature: Some(SIGNATURE.as_bytes()), ..wrong };
    assert_eq!(both.verdict(old, BODY, AT + 1000), Err(WebhookDenied::OutOfTime));
    assert_eq!(Judge::new(&[], &["secret"]).verdict(old, BODY, AT), Err(WebhookDenied::NoSigningToken));
    // A good signature needs no secret, not even a right one.
    assert_eq!(both.verdict(WebhookHeaders { token: Some(b"other"), ..old }, BODY, AT), Ok(()));
}

#[test]
fn without_a_signature_the_secret_decides_when_there_is_one() {
    let at = AT.to_string();
    let unsigned = |token| WebhookHeaders { signature: None, token, ..signed(ID, &at, "") };
    let both = Judge::of_example(&["secret"]);
    assert_eq!(both.verdict(unsigned(Some(b"secret".as_slice())), BODY, AT), Ok(()));
    assert_eq!(both.verdict(unsigned(Some(b"wrong")), BODY, AT), Err(WebhookDenied::WrongToken));
    assert_eq!(both.verdict(unsigned(None), BODY, AT), Err(WebhookDenied::MissingToken));
    for token in [None, Some(b"secret".as_slice()), Some(KEY.as_bytes())] {
        assert_eq!(Judge::of_example(&[]).verdict(unsigned(token), BODY, AT), Err(WebhookDenied::MissingSignature));
    }
}

/// The bytes with one bit turned over.
fn flipped(bytes: &[u8], bit: prop::sample::Index) -> Vec<u8> {
    let (mut bytes, bit) = (bytes.to_vec(), bit.index(bytes.len() * 8));
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

proptest! {
    #[test]
    fn no_changed_bit_gets_through(
        key in any::<[u8; 32]>(),
        id in "[a-z0-9-]{1,36}",
        late in -300_i64..=300,
        body in prop::collection::vec(any::<u8>(), 1..200),
        bit in any::<prop::sample::Index>(),
    ) {
        let (judge, at) = (Judge::new(&[&key], &["secret"]), AT.to_string());
        let signature = sign(&key, &id, &at, &body);
        let good = WebhookHeaders { token: Some(b"secret"), ..signed(&id, &at, &signature) };
        let verdict = |headers, body: &[u8]| judge.verdict(headers, body, AT + late);
        prop_assert_eq!(verdict(good, &body), Ok(()));
        let other_id = flipped(id.as_bytes(), bit);
        let other_time = flipped(at.as_bytes(), bit);
        let other_signature = flipped(signature.as_bytes(), bit);
        let changed = [
            WebhookHeaders { id: Some(&other_id), ..good },
            WebhookHeaders { timestamp: Some(&other_time), ..good },
            WebhookHeaders { signature: Some(&other_signature), ..good },
        ];
        prop_assert!(changed.into_iter().all(|headers| verdict(headers, &body).is_err()));
        prop_assert!(verdict(good, &flipped(&body, bit)).is_err());
        prop_assert!(verdict(good, &body[1..]).is_err());
    }

    /// While tokens are changed, old and new ones sign and are configured side by side.
    #[test]
    fn it_passes_exactly_when_a_configured_key_signed(
        configured in prop::collection::vec(0_u8..5, 1..4),
        signing in prop::collection::vec(0_u8..5, 1..4),
    ) {
        let keys: Vec<[u8; 32]> = configured.iter().map(|key| [*key; 32]).collect();
        let judge = Judge::new(&keys.iter().map(<[u8; 32]>::as_slice).collect::<Vec<_>>(), &[]);
        let at = AT.to_string();
        let signatures: Vec<String> = signing.iter().map(|key| sign(&[*key; 32], ID, &at, BODY)).collect();
        let verdict = judge.verdict(signed(ID, &at, &signatures.join(" ")), BODY, AT);
        let expected = if signing.iter().any(|key| configured.contains(key)) { Ok(()) } else { Err(WebhookDenied::WrongSignature) };
        prop_assert_eq!(verdict, expected);
    }
}
