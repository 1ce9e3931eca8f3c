//! JWK Sets of other issuers: which keys are taken, which passed over, and which sets are refused.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwks::KeySet;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{PUBLIC, key, text};

fn jwk(algorithm: Algorithm, kid: &str) -> Value {
    key(algorithm).public_jwk(kid).unwrap()
}

/// A good key with `changes` made to it; null removes a member.
fn changed(changes: Value) -> Value {
    let mut jwk = jwk(Algorithm::ES256, "a");
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => jwk.as_object_mut().unwrap().remove(name),
            value => jwk.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    jwk
}

fn read(keys: &[Value]) -> Result<KeySet, String> {
    KeySet::from_jwks(&json!({"keys": keys})).map_err(|error| error.to_string())
}

/// Reads a set of this key and a good one.
fn beside_a_good_one(jwk: Value) -> Result<KeySet, String> {
    read(&[jwk, self::jwk(Algorithm::EdDSA, "good")])
}

#[test]
fn S10_keys_of_every_kind() {
    let keys: Vec<_> = PUBLIC.into_iter().map(|algorithm| jwk(algorithm, algorithm.name())).collect();
    let set = read(&keys).unwrap();
    assert_eq!(set.kids().collect::<Vec<_>>(), ["RS256", "ES256", "EdDSA"]);
    for algorithm in PUBLIC {
        let signature = key(algorithm).sign(b"text").unwrap();
        let found = set.find(algorithm.name()).unwrap();
        assert!(found.algorithm() == algorithm && found.verify(b"text", &signature));
    }
    assert!(set.find("other").is_none());
    // What is stored is enough to read it again, and is no more than that.
    let stored = set.to_jwks();
    assert_eq!(
        stored["keys"][1],
        json!({
            "kty": "EC", "crv": "P-256", "x": keys[1]["x"], "y": keys[1]["y"], "kid": "ES256", "alg": "ES256", "use": "sig",
        })
    );
    assert_eq!(KeySet::from_jwks(&stored).unwrap().to_jwks(), stored);
    assert_eq!(KeySet::parse(stored.to_string().as_bytes()).unwrap().to_jwks(), stored);
    // Without alg, use and key_ops, as some publish them, and with members that say nothing.
    let bare = changed(json!({"alg": null, "use": null, "key_ops": null, "x5t": "abc", "issuer": "x"}));
    assert_eq!(read(&[bare]).unwrap().find("a").unwrap().algorithm(), Algorithm::ES256);
}

#[test]
fn S10_other_keys_are_passed_over() {
    let others = [
        (changed(json!({"use": "enc"})), r#"key "a" is for the use "enc""#),
        (changed(json!({"key_ops": ["encrypt"]})), r#"key "a" is not for verifying"#),
        (changed(json!({"kid": null, "alg": "ES512", "crv": "P-521"})), r#"key number 1 is of the kind EC "P-521""#),
        (changed(json!({"kty": "OKP", "crv": "X25519"})), r#"key "a" is of the kind OKP "X25519""#),
        (changed(json!({"kty": "AKP"})), r#"key "a" is of the kind "AKP""#),
        (json!({"kty": "RSA", "alg": "RSA-OAEP", "kid": "a"}), r#"key "a" is for "RSA-OAEP""#),
        (json!({"kty": "RSA", "alg": "RS512", "kid": "a"}), r#"key "a" is for "RS512""#),
    ];
    for (other, why) in others {
        let set = beside_a_good_one(other.clone()).unwrap();
        assert_eq!(set.kids().collect::<Vec<_>>(), ["good"]);
        assert_eq!(set.passed_over(), [why]);
        let error = read(&[other]).unwrap_err();
        assert_eq!(error, format!("the JWKS has no key that verifies ID tokens: {why}"));
    }
}

#[test]
fn N4_sets_that_are_refused() {
    let weak = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let modulus = aws_lc_rs::rsa::PublicKey::modulus(aws_lc_rs::signature::KeyPair::public_key(&weak));
    // Half of a modulus is a modulus of half the size.
    let weak = text(&modulus.big_endian_without_leading_zero()[..128]);
    let mut private = jwk(Algorithm::RS256, "a");
    private["d"] = json!("AQAB");
    let refused = [
        (json!({"kty": "oct", "kid": "a", "k": text([1; 32])}), "shared secret"),
        (json!({"kty": "oct", "kid": "a", "use": "enc", "k": text([1; 32])}), "shared secret"),
        (json!({"kty": "RSA", "kid": "a", "n": weak, "e": "AQAB"}), "2048 to 8192 bits, not 1024"),
        (private, "private member d"),
        (changed(json!({"d": text([1; 32])})), "private member d"),
        (changed(json!({"kid": null})), "it has no kid"),
        (changed(json!({"kid": ""})), "its kid is not a text"),
        (changed(json!({"kid": 1})), "its kid is not a text"),
        (changed(json!({"kid": "x".repeat(256)})), "its kid is not a text"),
        (changed(json!({"alg": "RS256"})), "does not fit its kty"),
        (changed(json!({"alg": "HS256"})), "does not fit its kty"),
        (changed(json!({"x": text([1; 32])})), "not a public key for ES256"),
        (changed(json!({"y": "AQ"})), "not 32 bytes long"),
        (changed(json!({"crv": null})), "has no crv"),
        (changed(json!({"kty": null})), "has no kty"),
        (changed(json!({"use": 1})), "not a string"),
        (jwk(Algorithm::ES256, "good"), "another key has the same kid"),
        (jwk(Algorithm::EdDSA, "good"), "another key has the same kid"),
        (json!("key"), "a JSON object"),
        (json!(null), "a JSON object"),
    ];
    for (key, why) in refused {
        let error = beside_a_good_one(key.clone()).unwrap_err();
        assert!(error.contains(why), "{key}: {error}");
        assert!(!error.contains(&text([1; 32])), "{error}");
    }
    assert_eq!(read(&[]).unwrap_err(), "the JWKS has no key that verifies ID tokens");
    assert!(read(&vec![changed(json!({"use": "enc"})); 101]).unwrap_err().contains("more than 100 keys"));
    for set in [json!(null), json!([]), json!({}), json!({"keys": {}}), json!({"keys": null}), json!({"Keys": []})] {
        assert!(KeySet::from_jwks(&set).is_err(), "{set}");
    }
}

#[test]
fn N4_doubled_members_in_a_served_set() {
    let good = jwk(Algorithm::ES256, "a").to_string();
    let doubled = good.replacen('{', r#"{"kid":"b","#, 1);
    assert!(KeySet::parse(format!(r#"{{"keys":[{good}]}}"#).as_bytes()).is_ok());
    for bytes in [format!(r#"{{"keys":[{doubled}]}}"#), format!(r#"{{"keys":[],"keys":[{good}]}}"#), "<html>".into()]
    {
        assert!(KeySet::parse(bytes.as_bytes()).is_err(), "{bytes}");
    }
    assert!(KeySet::parse(&[0xff, 0xfe]).is_err());
}

proptest! {
    #[test]
    fn N4_no_set_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), n in ".{0,20}") {
        prop_assert!(KeySet::parse(&bytes).is_err());
        let odd = json!({"kty": "RSA", "kid": "a", "n": n, "e": n});
        prop_assert!(read(&[odd]).is_err());
    }
}
