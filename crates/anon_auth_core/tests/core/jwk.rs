//! JSON Web Keys, and the many ways in which one is refused.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::{KeyError, SigningKey, VerifyingKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::rfc::{eddsa_jwk, es256_jwk, hs256_jwk, jwks, public_half, rs256_jwk};
use crate::support::{PUBLIC, bytes, key, object, text};

fn with(mut jwk: Value, changes: Value) -> Value {
    for (name, value) in object(changes) {
        jwk[name] = value;
    }
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

/// Why a private JWK is refused.
fn refusal(jwk: &Value) -> String {
    match SigningKey::from_jwk(jwk) {
        Err(KeyError::Invalid(why)) => why,
        other => panic!("{jwk} gave {other:?}"),
    }
}

/// Why a public JWK is refused.
fn public_refusal(jwk: &Value) -> String {
    match VerifyingKey::from_public_jwk(jwk) {
        Err(KeyError::Invalid(why)) => why,
        other => panic!("{jwk} gave {other:?}"),
    }
}

#[test]
fn S21_a_jwk_says_its_kid_and_may_say_what_it_is_for() {
    for (jwk, alg) in jwks().into_iter().zip(["HS256", "RS256", "ES256", "EdDSA"]) {
        let full = with(
            jwk,
            json!({"alg": alg, "use": "sig", "key_ops": ["sign", "verify"], "kid": "2026-01", "x5t": "ignored"}),
        );
        let (kid, key) = SigningKey::from_jwk(&full).unwrap();
        assert_eq!(kid.as_deref(), Some("2026-01"));
        assert_eq!(key.algorithm().name(), alg);
    }
}

#[test]
fn S21_published_keys_verify_what_was_signed() {
    for algorithm in PUBLIC {
        let jwk = key(algorithm).public_jwk("k").unwrap();
        let verifying = VerifyingKey::from_public_jwk(&jwk).unwrap();
        assert_eq!(verifying.algorithm(), algorithm);
        assert!(verifying.verify(b"message", &key(algorithm).sign(b"message").unwrap()));
    }
}

#[test]
fn S21_what_is_no_jwk_is_refused() {
    for value in [json!(null), json!([]), json!("x"), json!(1), json!([es256_jwk()])] {
        assert_eq!(refusal(&value), "a JWK is a JSON object");
        assert_eq!(public_refusal(&value), "a JWK is a JSON object");
    }
    assert_eq!(refusal(&json!({})), "the JWK has no kty");
    assert_eq!(refusal(&json!({"keys": [es256_jwk()]})), "the JWK has no kty");
    assert_eq!(refusal(&json!({"kty": 1})), "the JWK's kty is not a string");
}

#[test]
fn S21_other_kinds_and_curves_are_refused_by_name() {
    for kty in ["AKP", "ec", "", "RSA "] {
        assert_eq!(
            refusal(&with(es256_jwk(), json!({ "kty": kty }))),
            format!("the key type {kty:?} is not supported: use EC, OKP, RSA or oct")
        );
    }
    for curve in ["P-384", "P-521", "secp256k1", "p-256", "Ed25519"] {
        assert_eq!(
            refusal(&with(es256_jwk(), json!({ "crv": curve }))),
            format!("the curve {curve:?} is not supported: use P-256")
        );
    }
    for curve in ["X25519", "Ed448", "P-256"] {
        assert_eq!(
            refusal(&with(eddsa_jwk(), json!({ "crv": curve }))),
            format!("the curve {curve:?} is not supported: use Ed25519")
        );
    }
    let long = refusal(&with(es256_jwk(), json!({"kty": "x".repeat(1 << 20)})));
    assert!(long.len() < 200);
}

#[test]
fn S21_alg_must_fit_the_kind_of_key() {
    for (jwk, own) in jwks().into_iter().zip(["HS256", "RS256", "ES256", "EdDSA"]) {
        for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
            let jwk = with(jwk.clone(), json!({ "alg": alg }));
            if alg == own {
                assert!(SigningKey::from_jwk(&jwk).is_ok());
            } else {
                assert_eq!(refusal(&jwk), format!("the JWK's alg {alg} does not fit its kty and crv"));
                assert!(VerifyingKey::from_public_jwk(&public_half(jwk)).is_err());
            }
        }
        for alg in ["none", "ES384", "RS512", "PS256", "RSA-OAEP", "ECDH-ES", "A128KW"] {
            let why = refusal(&with(jwk.clone(), json!({ "alg": alg })));
            assert!(why.contains(alg), "{why}");
        }
        assert_eq!(refusal(&with(jwk, json!({"alg": 1}))), "the JWK's alg is not a string");
    }
}

#[test]
fn S21_a_key_for_another_use_is_refused() {
    for jwk in jwks() {
        assert_eq!(refusal(&with(jwk.clone(), json!({"use": "enc"}))), "the JWK's use is not \"sig\"");
        assert_eq!(refusal(&with(jwk.clone(), json!({"use": null}))), "the JWK's use is not a string");
        for operations in [json!([]), json!(["verify"]), json!("sign"), json!(null), json!([["sign"]])] {
            let why = refusal(&with(jwk.clone(), json!({ "key_ops": operations })));
            assert_eq!(why, "the JWK's key_ops do not include \"sign\"");
        }
        assert_eq!(refusal(&with(jwk.clone(), json!({"kid": ""}))), "the JWK's kid is empty");
        assert_eq!(refusal(&with(jwk, json!({"kid": 1}))), "the JWK's kid is not a string");
    }
    let public = public_half(es256_jwk());
    assert_eq!(public_refusal(&with(public.clone(), json!({"use": "enc"}))), "the JWK's use is not \"sig\"");
    assert_eq!(
        public_refusal(&with(public, json!({"key_ops": ["sign"]}))),
        "the JWK's key_ops do not include \"verify\""
    );
}

#[test]
fn S21_a_jwk_without_its_private_part_is_refused() {
    assert_eq!(refusal(&without(hs256_jwk(), "k")), "the JWK has no private part: k is missing");
    for jwk in [rs256_jwk(), es256_jwk(), eddsa_jwk()] {
        assert_eq!(refusal(&public_half(jwk)), "the JWK has no private part: d is missing");
    }
    for name in ["p", "q", "dp", "dq", "qi"] {
        assert_eq!(refusal(&without(rs256_jwk(), name)), format!("the JWK has no private part: {name} is missing"));
    }
}

#[test]
fn S21_a_jwk_without_its_public_part_is_refused() {
    for (jwk, names) in
        [(rs256_jwk(), &["n", "e"][..]), (es256_jwk(), &["crv", "x", "y"]), (eddsa_jwk(), &["crv", "x"])]
    {
        for name in names {
            assert_eq!(refusal(&without(jwk.clone(), name)), format!("the JWK has no {name}"));
            assert_eq!(public_refusal(&without(public_half(jwk.clone()), name)), format!("the JWK has no {name}"));
        }
    }
}

#[test]
fn S21_halves_that_do_not_belong_together_are_refused() {
    let differ = "the JWK's public and private parts do not belong together";
    for (jwk, names) in [
        (rs256_jwk(), &["n", "e", "d", "p", "q", "dp", "dq", "qi"][..]),
        (es256_jwk(), &["x", "y", "d"]),
        (eddsa_jwk(), &["x", "d"]),
    ] {
        for name in names {
            // The last bit of each number flipped.
            let mut number = bytes(jwk[*name].as_str().unwrap());
            *number.last_mut().unwrap() ^= 2;
            let why = refusal(&with(jwk.clone(), json!({ *name: text(number) })));
            assert_eq!(why, differ, "{name}");
        }
    }
    // Numbers that are no private key of the curve: zero, its order, and beyond.
    for d in [[0; 32].to_vec(), bytes("_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE"), [255; 32].to_vec()] {
        assert_eq!(refusal(&with(es256_jwk(), json!({"d": text(d)}))), differ);
    }
}

#[test]
fn S21_numbers_of_the_wrong_form_are_refused() {
    for (jwk, names) in [(es256_jwk(), &["x", "y", "d"][..]), (eddsa_jwk(), &["x", "d"])] {
        for name in names {
            let number = bytes(jwk[*name].as_str().unwrap());
            for wrong in [vec![], number[1..].to_vec(), [&[0], number.as_slice()].concat(), vec![0; 1 << 20]] {
                let why = refusal(&with(jwk.clone(), json!({ *name: text(wrong) })));
                assert_eq!(why, format!("the JWK's {name} is not 32 bytes long"));
            }
        }
    }
    for jwk in jwks() {
        for (name, value) in object(jwk.clone()) {
            if ["kty", "crv"].contains(&name.as_str()) {
                continue;
            }
            for wrong in [format!("{}=", value.as_str().unwrap()), "+/+/".to_owned(), " ".to_owned(), "A".to_owned()]
            {
                let why = refusal(&with(jwk.clone(), json!({ name.as_str(): wrong })));
                assert_eq!(why, format!("the JWK's {name} is not base64url without padding"));
            }
            let why = refusal(&with(jwk.clone(), json!({ name.as_str(): 1 })));
            assert_eq!(why, format!("the JWK's {name} is not a string"));
        }
    }
}

#[test]
fn S21_small_keys_are_refused() {
    for (n, bits) in [
        (vec![255; 128], 1024),
        ([&[127], [255; 255].as_slice()].concat(), 2047),
        (vec![1], 1),
        (vec![255; 1025], 8200),
    ] {
        let why = format!("an RSA key has 2048 to 8192 bits, not {bits}");
        assert_eq!(refusal(&with(rs256_jwk(), json!({"n": text(&n)}))), why);
        assert_eq!(public_refusal(&with(public_half(rs256_jwk()), json!({"n": text(&n)}))), why);
    }
    for length in [0, 1, 31] {
        let jwk = json!({"kty": "oct", "k": text(vec![1; length])});
        assert_eq!(refusal(&jwk), "a secret for HS256 has at least 32 bytes");
    }
    assert!(SigningKey::from_jwk(&json!({"kty": "oct", "k": text([1; 32])})).is_ok());
}

#[test]
fn S21_an_rsa_key_of_the_wrong_form_is_refused() {
    for name in ["n", "e"] {
        let number = bytes(rs256_jwk()[name].as_str().unwrap());
        for wrong in [vec![], vec![0], [&[0], number.as_slice()].concat()] {
            let why = format!("the JWK's {name} is empty or begins with a zero byte");
            let changes = json!({ name: text(wrong) });
            assert_eq!(refusal(&with(rs256_jwk(), changes.clone())), why);
            assert_eq!(public_refusal(&with(public_half(rs256_jwk()), changes)), why);
        }
    }
    // With an exponent of 1 anybody could sign; an even one cannot work; 33 bits are the most.
    for e in [&[1][..], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[255; 256]] {
        let jwk = with(public_half(rs256_jwk()), json!({"e": text(e)}));
        assert_eq!(public_refusal(&jwk), "this is not a public key for RS256", "{e:?}");
    }
    assert_eq!(
        refusal(&with(rs256_jwk(), json!({"oth": []}))),
        "an RSA key of more than two primes is not supported"
    );
}

#[test]
fn S21_a_point_off_the_curve_is_refused() {
    for changes in [
        json!({"x": text([0; 32]), "y": text([0; 32])}),
        json!({"x": text([255; 32])}),
        json!({"y": es256_jwk()["x"]}),
    ] {
        let jwk = with(public_half(es256_jwk()), changes);
        assert_eq!(public_refusal(&jwk), "this is not a public key for ES256");
    }
}

#[test]
fn N8_an_oct_key_where_a_public_key_is_due() {
    let why = "a public key is due, not a shared secret (kty oct)";
    assert_eq!(public_refusal(&hs256_jwk()), why);
    // Dressed up as a public key.
    let dressed = with(hs256_jwk(), json!({"crv": "P-256", "x": "AA", "y": "AA", "use": "sig"}));
    assert_eq!(public_refusal(&dressed), why);
    assert_eq!(
        public_refusal(&with(dressed, json!({"alg": "ES256"}))),
        "the JWK's alg ES256 does not fit its kty and crv"
    );
}

#[test]
fn S21_a_private_key_where_a_public_one_is_due() {
    for jwk in [rs256_jwk(), es256_jwk(), eddsa_jwk()] {
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            let jwk = with(public_half(jwk.clone()), json!({ name: "AA" }));
            assert_eq!(
                public_refusal(&jwk),
                format!("a public key is due, and this JWK has the private member {name}")
            );
        }
    }
}

#[test]
fn N14_errors_hold_no_key() {
    for jwk in jwks() {
        let secrets: Vec<_> = object(jwk.clone())
            .into_iter()
            .filter(|(name, _)| !["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()))
            .map(|(_, value)| value.as_str().unwrap().to_owned())
            .collect();
        for (name, value) in object(jwk.clone()) {
            for wrong in [json!(format!("{}!", value.as_str().unwrap())), json!([value.clone()]), json!("AAAA")] {
                let why = match SigningKey::from_jwk(&with(jwk.clone(), json!({ name.as_str(): wrong }))) {
                    Err(error) => format!("{error} {error:?}"),
                    Ok(_) => continue,
                };
                for secret in &secrets {
                    assert!(!why.contains(&secret[..12]), "{why}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn S21_any_members_are_read_without_a_panic(
        kty in prop::sample::select(vec!["EC", "OKP", "RSA", "oct"]),
        crv in prop::sample::select(vec!["P-256", "Ed25519"]),
        numbers in prop::collection::vec(
            prop_oneof![prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(any::<u8>(), 32)],
            10,
        ),
    ) {
        let mut jwk = json!({"kty": kty, "crv": crv});
        for (name, number) in ["x", "y", "d", "n", "e", "p", "q", "dp", "dq", "qi"].into_iter().zip(numbers) {
            jwk[name] = text(number).into();
        }
        prop_assert!(SigningKey::from_jwk(&jwk).is_err());
        // Random bytes may well be some public key, but not one that signed this.
        if let Ok(key) = VerifyingKey::from_public_jwk(&public_half(jwk)) {
            prop_assert!(!key.verify(b"message", &[1; 64]));
        }
    }

    #[test]
    fn S21_any_ed25519_point_is_read_without_a_panic(x: [u8; 32], signature in prop::collection::vec(any::<u8>(), 64)) {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": text(x)});
        if let Ok(key) = VerifyingKey::from_public_jwk(&jwk) {
            prop_assert_eq!(key.algorithm(), Algorithm::EdDSA);
            prop_assert!(!key.verify(b"message", &signature));
        }
    }
}
