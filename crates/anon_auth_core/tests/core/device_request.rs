//! What device keys sign: read as Authgear's clients write it, and refused in every other spelling.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::device_request::{Action, DeviceKey, Expected, RequestError, parse};
use anon_auth_core::jwt::TokenError;
use anon_auth_core::keys::{KeyError, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{HS256, PUBLIC, forge, key, object, text};

const KID: &str = "0F3E5A1C-77E2-4B43-A6C0-5B8A1D2E9F00";
const NOW: i64 = 1_800_000_000;

fn expected(action: Action) -> Expected {
    Expected { action, now: NOW, latest: NOW + 300 }
}

/// Made by jose 6.2.18. The modulus of the RSA key begins with a zero byte, as clients on Android write it.
#[rustfmt::skip]
const BY_JOSE: [(&str, &str); 3] = [
    ("RS256", "eyJ0eXAiOiJ2bmQuYXV0aGdlYXIuYW5vbnltb3VzLXJlcXVlc3QiLCJraWQiOiIwRjNFNUExQy03N0UyLTRCNDMtQTZDMC01QjhBMUQyRTlGMDAiLCJhbGciOiJSUzI1NiIsImp3ayI6eyJrdHkiOiJSU0EiLCJuIjoiQUpvMjF1RzBobjF2S2RfejJrUmdGcDFBeWxHc21pTFh3Tm9SSGY1U0VQM200Z1QzUE5uUmxSdU5aaUJUcVFvX0xOdy1uV0RzazBkVWdIWHRBdGQ4bzVkUU9DeXhHWndLaGMzdmZIOTA3bzBsenZpTnMwR2habkg5SEk0YlVYT0FZSndjRjRrZ1k2X1lsTWU5YTlpXzVLeGE3UVF1b2k3UDZXQ3hYT2o5eTNNdVg5VllsZTNmbURvb1plMzhlQmlfU0ozSU45b2xScF80S1poREpuaG04aE05X2tmVGw3aGE2NXpNTE40MFZ1eWF0dEMwMDhzMGZaVnhXWE95ZFY4YnlHVVhJaHpPZU9vNmRubkVsdFZiaGVRUmxuQkd0dnN0Q21wVmo2OEpPRDBYazVURmZTZnBEeDBZYTFLV043ODA3d0J6d1JOaENvWmNCYjlKNjFYRlFsTSIsImUiOiJBUUFCIiwiYWxnIjoiUlMyNTYiLCJraWQiOiIwRjNFNUExQy03N0UyLTRCNDMtQTZDMC01QjhBMUQyRTlGMDAifX0.eyJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMDA2MCwiY2hhbGxlbmdlIjoiY2hhbGxlbmdlLTEiLCJhY3Rpb24iOiJhdXRoIn0.GwTD-0Nk60MO1wGlrq06U83q_RBcX9pW5xfnGIiNsSht7Ifbo4h9Ip3VES30HwZQkDtzXDeTJRUmvtzUlNCOzK9Go4IAp_QM8z02gBMyVCbs5nrAPIcApT6czR29yGzZgmgzk6-uoUyV8b7Vav9u6b5hm6rIFR8z95Tfde8wX1RMYUeoaGhzS-r1tddFoelIaChMQE-jlX-EbCsHYT8v5Sx0v3b6yr0I2aMhkV-2Zy_vObibEzCIXklUiMh8EoIYBGtoK4GMl-1IAnt6sV_ZSAHzs6As90Zd2-ZUf6i9P40y91SCElxT7XocPjssnHG-hWId-nY35fB1WBsKwQGTVg"),
    ("ES256", "eyJ0eXAiOiJ2bmQuYXV0aGdlYXIuYW5vbnltb3VzLXJlcXVlc3QiLCJraWQiOiIwRjNFNUExQy03N0UyLTRCNDMtQTZDMC01QjhBMUQyRTlGMDAiLCJhbGciOiJFUzI1NiIsImp3ayI6eyJrdHkiOiJFQyIsIngiOiI3bmVhZkdUUXdRdF9FcnFHbG1nMzZRYXlvN24wRnI1anRCMXhUTXlXWk1RIiwieSI6ImtiWUxqRVBSZlo1NmVFVzhnWVJ4Qkt2UTltZDVtb3V6UW1xMjNiZXh5ZGsiLCJjcnYiOiJQLTI1NiIsImFsZyI6IkVTMjU2Iiwia2lkIjoiMEYzRTVBMUMtNzdFMi00QjQzLUE2QzAtNUI4QTFEMkU5RjAwIn19.eyJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMDA2MCwiY2hhbGxlbmdlIjoiY2hhbGxlbmdlLTEiLCJhY3Rpb24iOiJhdXRoIn0.RPwly_lblcZjFOoKHz72l_UpYh1F9FOmQvOrGiyy0F_x7WqtfRaRQw_gfR1hPlOnyGSUx2oU6EBmxy3M_96RaQ"),
    ("EdDSA", "eyJ0eXAiOiJ2bmQuYXV0aGdlYXIuYW5vbnltb3VzLXJlcXVlc3QiLCJraWQiOiIwRjNFNUExQy03N0UyLTRCNDMtQTZDMC01QjhBMUQyRTlGMDAiLCJhbGciOiJFZERTQSIsImp3ayI6eyJjcnYiOiJFZDI1NTE5IiwieCI6Ik9pNk9tcXZiaDJHRk5VVXlmaVpWUV8tNm9oLTN6am43RHRVQVBMUTBrTEUiLCJrdHkiOiJPS1AiLCJhbGciOiJFZERTQSIsImtpZCI6IjBGM0U1QTFDLTc3RTItNEI0My1BNkMwLTVCOEExRDJFOUYwMCJ9fQ.eyJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMDA2MCwiY2hhbGxlbmdlIjoiY2hhbGxlbmdlLTEiLCJhY3Rpb24iOiJhdXRoIn0.yLJJLJdcUccYuF_Y9kkb9XTvsIMNBTyBlV3MGdak2-yL-h2PMpjs46WRFEQ278Mrv_payySUMPMSkpiMDY8lCA"),
];

/// A good object with `changes` made to it; null removes a member.
fn changed(good: Value, changes: Value) -> String {
    let mut object = object(good);
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.clone(), value.clone()),
        };
    }
    Value::Object(object).to_string()
}

fn jwk(algorithm: Algorithm) -> Value {
    key(algorithm).public_jwk(KID).unwrap()
}

fn good_header(algorithm: Algorithm) -> Value {
    json!({"alg": algorithm.name(), "typ": "vnd.authgear.anonymous-request", "kid": KID, "jwk": jwk(algorithm)})
}

/// A registration with changes to its header and its payload.
fn request(algorithm: Algorithm, header: Value, payload: Value) -> String {
    let good = json!({"iat": NOW, "exp": NOW + 60, "challenge": "challenge-1", "action": "auth"});
    forge(changed(good_header(algorithm), header), changed(good, payload), key(algorithm))
}

/// What comes of a registration: the challenge.
fn register(jws: &str) -> Result<String, RequestError> {
    let mut request = parse(jws)?;
    let key = request.key.take().expect("it brings a key");
    request.verify(&key, &expected(Action::Auth))
}

fn refusal(header: Value, payload: Value) -> RequestError {
    register(&request(Algorithm::ES256, header, payload)).unwrap_err()
}

#[test]
fn A3_what_another_library_signs_is_read() {
    for (algorithm, jws) in BY_JOSE {
        let request = parse(jws).unwrap();
        assert_eq!(request.kid(), KID);
        let key = request.key.as_ref().unwrap();
        assert_eq!(key.jwk()["alg"], algorithm);
        assert_eq!(key.jwk().get("kid"), None);
        // What is stored reads as the same key.
        let stored = DeviceKey::from_jwk(key.jwk()).unwrap();
        assert_eq!(stored.jwk(), key.jwk());
        assert_eq!(request.verify(&stored, &expected(Action::Auth)).unwrap(), "challenge-1");
        assert_eq!(register(jws).unwrap(), "challenge-1");
    }
}

#[test]
fn A3_of_a_key_only_its_type_and_numbers_are_kept() {
    for algorithm in PUBLIC {
        let plain = DeviceKey::from_jwk(&jwk(algorithm)).unwrap();
        let mut full = jwk(algorithm);
        for name in ["kty", "crv", "x", "y", "n", "e"] {
            if full.get(name).is_none() {
                full[name] = json!({"more": "\0"});
            }
        }
        full["more"] = json!("\0");
        assert_eq!(DeviceKey::from_jwk(&full).unwrap().jwk(), plain.jwk());
    }
}

#[test]
fn A3_a_request_without_a_key_is_verified_by_the_stored_one() {
    for algorithm in PUBLIC {
        let stored = DeviceKey::from_jwk(&jwk(algorithm)).unwrap();
        let jws = request(algorithm, json!({"jwk": null}), json!({"action": "promote", "iat": null}));
        let read = parse(&jws).unwrap();
        assert!(read.key.is_none());
        assert_eq!(read.verify(&stored, &expected(Action::Promote)).unwrap(), "challenge-1");
    }
}

#[test]
fn N9_a_request_by_another_key_is_refused() {
    for algorithm in PUBLIC {
        let other = SigningKey::generate(algorithm).unwrap();
        // Signed by another than the one it brings along.
        let jws = request(algorithm, json!({"jwk": other.public_jwk(KID)}), json!({}));
        assert_eq!(register(&jws), Err(RequestError::Token(TokenError::BadSignature)));
        // By another than the stored one, of the same kind and of another.
        for stored in PUBLIC.map(|kind| SigningKey::generate(kind).unwrap()) {
            let stored = DeviceKey::from_jwk(&stored.public_jwk(KID).unwrap()).unwrap();
            let jws = request(algorithm, json!({"jwk": null}), json!({}));
            let refused = parse(&jws).unwrap().verify(&stored, &expected(Action::Auth)).unwrap_err();
            let same = stored.jwk()["alg"] == algorithm.name();
            let why = if same { TokenError::BadSignature } else { TokenError::AlgorithmMismatch };
            assert_eq!(refused, RequestError::Token(why));
        }
    }
}

#[test]
fn N9_the_action_is_the_one_that_is_done() {
    let jws = request(Algorithm::EdDSA, json!({}), json!({"action": "promote"}));
    assert_eq!(register(&jws), Err(RequestError::Action(Action::Auth)));
    let auth = request(Algorithm::EdDSA, json!({}), json!({}));
    let mut read = parse(&auth).unwrap();
    let key = read.key.take().unwrap();
    assert_eq!(read.verify(&key, &expected(Action::Promote)), Err(RequestError::Action(Action::Promote)));
    // Swapped after it was signed.
    let (header, signature) = (auth.split('.').next().unwrap(), auth.rsplit('.').next().unwrap());
    let payload = jws.split('.').nth(1).unwrap();
    let swapped = format!("{header}.{payload}.{signature}");
    assert_eq!(register(&swapped), Err(RequestError::Token(TokenError::BadSignature)));
    for action in [json!("AUTH"), json!(""), json!("setup")] {
        assert_eq!(refusal(json!({}), json!({"action": action})), RequestError::Action(Action::Auth));
    }
    assert_eq!(refusal(json!({}), json!({"action": ["auth"]})), RequestError::Malformed("action"));
}

#[test]
fn A3_action_exp_and_challenge_are_required_and_bounded() {
    for claim in ["action", "exp", "challenge"] {
        assert_eq!(refusal(json!({}), json!({claim: null})), RequestError::Missing(claim));
    }
    for exp in [NOW, NOW - 1, 0, i64::MIN] {
        assert_eq!(refusal(json!({}), json!({"exp": exp})), RequestError::Expired);
    }
    for exp in [json!(NOW + 301), json!(i64::MAX), json!(1e300)] {
        assert_eq!(refusal(json!({}), json!({"exp": exp})), RequestError::TooFar);
    }
    for exp in [NOW + 1, NOW + 300] {
        assert!(register(&request(Algorithm::ES256, json!({}), json!({"exp": exp}))).is_ok());
    }
    for claim in ["exp", "iat", "nbf"] {
        assert_eq!(refusal(json!({}), json!({claim: "1800000060"})), RequestError::Malformed(claim));
    }
    assert_eq!(refusal(json!({}), json!({"challenge": 1})), RequestError::Malformed("challenge"));
    assert_eq!(refusal(json!({}), json!({"nbf": NOW + 1})), RequestError::NotYetValid);
    // The clock of a device decides nothing but when its own request ends.
    assert!(register(&request(Algorithm::ES256, json!({}), json!({"iat": NOW + 10_000}))).is_ok());
}

#[test]
fn N8_the_header_is_of_this_kind_of_token() {
    for typ in [json!("JWT"), json!("vnd.authgear.biometric-request"), json!(""), json!(1), json!(null)] {
        assert_eq!(refusal(json!({"typ": typ}), json!({})), RequestError::Token(TokenError::WrongType));
    }
    for alg in [json!("none"), json!("None"), json!("NONE"), json!(""), json!("PS256"), json!("ES384"), json!(null)] {
        assert_eq!(refusal(json!({"alg": alg}), json!({})), RequestError::Token(TokenError::UnsupportedAlgorithm));
    }
    for member in ["crit", "b64"] {
        let value = if member == "crit" { json!(["exp"]) } else { json!(false) };
        assert_eq!(refusal(json!({member: value}), json!({})), RequestError::Token(TokenError::UnknownCritical));
    }
    for member in ["jku", "x5u", "x5c"] {
        assert_eq!(refusal(json!({member: "https://a"}), json!({})), RequestError::Token(TokenError::EmbeddedKey));
    }
    for kid in ["short-1", &"a".repeat(129), "with space", "with/slash", "ümlaut-kid", "null\0null"] {
        assert_eq!(refusal(json!({"kid": kid, "jwk": null}), json!({})), RequestError::Kid);
    }
    for kid in [json!(null), json!(""), json!(1)] {
        assert!(matches!(refusal(json!({"kid": kid}), json!({})), RequestError::Token(TokenError::Malformed(_))));
    }
    assert_eq!(refusal(json!({"kid": "another-kid"}), json!({})), RequestError::OtherKid);
    for jwk in [json!("text"), json!([]), json!(1)] {
        assert!(matches!(refusal(json!({"jwk": jwk}), json!({})), RequestError::Key(_)));
    }
}

#[test]
fn N8_algorithm_confusion() {
    // HS256, signed with the public key in any form that a careless verifier might take for the secret.
    let public = jwk(Algorithm::RS256);
    for secret in [public.to_string(), public["n"].to_string().repeat(2)] {
        let secret = SigningKey::from_private(HS256, secret.as_bytes()).unwrap();
        let header = changed(good_header(Algorithm::RS256), json!({"alg": "HS256"}));
        let jws = forge(header, json!({"exp": NOW + 60}).to_string(), &secret);
        assert_eq!(register(&jws), Err(RequestError::Token(TokenError::UnsupportedAlgorithm)));
    }
    // A key of another kind than the header says, a secret, a private key.
    for (alg, jwk) in [("RS256", jwk(Algorithm::ES256)), ("EdDSA", jwk(Algorithm::ES256))] {
        assert_eq!(
            refusal(json!({"alg": alg, "jwk": jwk}), json!({})),
            RequestError::Token(TokenError::AlgorithmMismatch)
        );
    }
    let secret = json!({"kty": "oct", "k": text([1; 32]), "kid": KID});
    assert!(matches!(refusal(json!({"jwk": secret}), json!({})), RequestError::Key(_)));
    let mut private = jwk(Algorithm::ES256);
    private["d"] = json!(text([1; 32]));
    assert!(matches!(refusal(json!({"jwk": private}), json!({})), RequestError::Key(_)));
}

/// Why a JWK is refused.
fn weakness(jwk: Value) -> String {
    match DeviceKey::from_jwk(&jwk) {
        Err(KeyError::Invalid(why)) => why,
        other => panic!("{jwk} gave {other:?}"),
    }
}

#[test]
fn N8_weak_rsa_keys() {
    let modulus = |bits: usize| {
        let mut n = vec![0xff; bits.div_ceil(8)];
        n[0] = 0xff >> (n.len() * 8 - bits);
        json!(text(n))
    };
    for bits in [1, 512, 1024, 2047, 8193, 16_384] {
        assert!(weakness(json!({"kty": "RSA", "n": modulus(bits), "e": "AQAB"})).contains("2048 to 8192 bits"));
    }
    // With 1 as its exponent a signature is the message itself; an even one has no inverse.
    let n = jwk(Algorithm::RS256)["n"].clone();
    for e in [[1].as_slice(), &[2], &[1, 0, 0], &[0xff; 32]] {
        weakness(json!({"kty": "RSA", "n": n, "e": text(e)}));
    }
    weakness(json!({"kty": "RSA", "n": n, "e": ""}));
    let mut even = vec![0xff; 256];
    even[255] = 0xfe;
    weakness(json!({"kty": "RSA", "n": text(even), "e": "AQAB"}));
    // One sign byte is Java's; two are nobody's, nor is one where the number needs none.
    weakness(json!({"kty": "RSA", "n": text([&[0, 0], [0xff; 256].as_slice()].concat()), "e": "AQAB"}));
    weakness(json!({"kty": "RSA", "n": text([&[0, 0x7f], [0xff; 256].as_slice()].concat()), "e": "AQAB"}));
}

#[test]
fn N8_points_that_are_on_no_curve_or_anybodys() {
    let good = jwk(Algorithm::ES256);
    let (x, y) = (good["x"].clone(), good["y"].clone());
    for (x, y) in [(y.clone(), x.clone()), (json!(text([0; 32])), json!(text([0; 32]))), (x, json!(text([0xff; 32])))]
    {
        weakness(json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}));
    }
    // The points of small order on Curve25519 (RFC 7748, section 5, has the curve): y is 0, 1, -1, or that of order 8.
    let order_8 = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    let mut points: Vec<[u8; 32]> = order_8.map(from_hex).to_vec();
    let minus_one = from_hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    let (mut zero, mut one) = ([0; 32], [0; 32]);
    one[0] = 1;
    points.extend([zero, one, minus_one]);
    // From 2^255-19 on it is 0, 1, 2 … once more: other spellings, of good points too.
    for low in 0xed..=0xff {
        zero = minus_one;
        zero[0] = low;
        points.push(zero);
    }
    for mut point in points {
        for sign in [0, 0x80] {
            point[31] = point[31] & 0x7f | sign;
            weakness(json!({"kty": "OKP", "crv": "Ed25519", "x": text(point)}));
        }
    }
    // No point at all: y = 2 is on no curve.
    one[0] = 2;
    weakness(json!({"kty": "OKP", "crv": "Ed25519", "x": text(one)}));
    for length in [0, 31, 33] {
        weakness(json!({"kty": "OKP", "crv": "Ed25519", "x": text(vec![9; length])}));
    }
}

fn from_hex(hex: &str) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
}

#[test]
fn N8_duplicates_and_length() {
    let key = key(Algorithm::EdDSA);
    let header = changed(good_header(Algorithm::EdDSA), json!({"jwk": null}));
    let stored = DeviceKey::from_jwk(&jwk(Algorithm::EdDSA)).unwrap();
    for payload in [
        r#"{"exp":1800000060,"challenge":"a","action":"promote","action":"auth"}"#,
        r#"{"exp":1800000060,"challenge":"a","challenge":"b","action":"auth"}"#,
    ] {
        let jws = forge(&header, payload, key);
        let refused = parse(&jws).unwrap().verify(&stored, &expected(Action::Auth));
        assert_eq!(refused, Err(RequestError::Token(TokenError::DuplicateMember)));
    }
    let twice = header.replacen('{', r#"{"kid":"another-kid","#, 1);
    assert_eq!(parse(&forge(twice, "{}", key)).err(), Some(RequestError::Token(TokenError::DuplicateMember)));
    let long = request(Algorithm::EdDSA, json!({}), json!({"x": "a".repeat(8192)}));
    assert_eq!(register(&long), Err(RequestError::Token(TokenError::TooLong)));
}

#[test]
fn N8_every_bit_of_a_registration_flipped() {
    for algorithm in PUBLIC {
        let jws = request(algorithm, json!({}), json!({}));
        assert!(register(&jws).is_ok());
        for at in 0..jws.len() {
            let mut bytes = jws.clone().into_bytes();
            bytes[at] ^= 1 << (at % 7);
            let flipped = String::from_utf8(bytes).unwrap();
            // A key that was turned into another did not sign this.
            let accepted = parse(&flipped).is_ok_and(|mut request| {
                request.key.take().is_some_and(|key| request.verify(&key, &expected(Action::Auth)).is_ok())
            });
            assert!(!accepted, "{algorithm}: byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn N8_no_text_panics(text in "\\PC*", header in "\\PC*", jwk in "\\PC*") {
        let _ = parse(&text);
        let _ = parse(&forge(&header, &text, key(Algorithm::EdDSA)));
        let _ = parse(&request(Algorithm::EdDSA, json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": jwk}}), json!({})));
    }
}
