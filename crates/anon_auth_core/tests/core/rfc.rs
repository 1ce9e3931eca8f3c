//! The standards' own examples: RFC 7515 appendix A.1 to A.3 and RFC 8037 appendix A.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt;
use anon_auth_core::keys::{SigningKey, VerifyingKey};
use serde_json::{Value, json};

use crate::support::{bytes, text};

const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

pub fn hs256_jwk() -> Value {
    json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    })
}

pub fn rs256_jwk() -> Value {
    json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
        "d": "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ",
        "p": "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
        "q": "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
        "dp": "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0",
        "dq": "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU",
        "qi": "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U",
    })
}

pub fn es256_jwk() -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    })
}

pub fn eddsa_jwk() -> Value {
    json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    })
}

/// Every private JWK of the examples.
pub fn jwks() -> [Value; 4] {
    [hs256_jwk(), rs256_jwk(), es256_jwk(), eddsa_jwk()]
}

/// The JWK without its private members.
pub fn public_half(mut jwk: Value) -> Value {
    let members = jwk.as_object_mut().unwrap();
    for name in ["d", "p", "q", "dp", "dq", "qi"] {
        members.remove(name);
    }
    jwk
}

fn import(jwk: &Value, algorithm: Algorithm) -> SigningKey {
    let (kid, key) = SigningKey::from_jwk(jwk).unwrap();
    assert_eq!((kid, key.algorithm()), (None, algorithm));
    key
}

#[test]
fn S21_rfc_7515_a_1_hs256() {
    let key = import(&hs256_jwk(), Algorithm::HS256);
    let signed = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}");
    let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    assert_eq!(text(key.sign(signed.as_bytes()).unwrap()), signature);
    assert!(key.verifying_key().verify(signed.as_bytes(), &bytes(signature)));
    let secret = bytes(hs256_jwk()["k"].as_str().unwrap());
    assert!(VerifyingKey::from_secret(&secret).unwrap().verify(signed.as_bytes(), &bytes(signature)));
    // A token without kid is none of ours.
    assert!(jwt::parse(&format!("{signed}.{signature}")).is_err());
}

#[test]
fn S21_rfc_7515_a_2_rs256() {
    let key = import(&rs256_jwk(), Algorithm::RS256);
    let signed = format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}");
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    assert_eq!(text(key.sign(signed.as_bytes()).unwrap()), signature);
    verifies(&rs256_jwk(), &signed, signature);
}

#[test]
fn S21_rfc_7515_a_3_es256() {
    let key = import(&es256_jwk(), Algorithm::ES256);
    let signed = format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}");
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    verifies(&es256_jwk(), &signed, signature);
    let ours = key.sign(signed.as_bytes()).unwrap();
    assert_eq!(ours.len(), 64);
    verifies(&es256_jwk(), &signed, &text(ours));
}

#[test]
fn S21_rfc_8037_a_4_and_5_eddsa() {
    let key = import(&eddsa_jwk(), Algorithm::EdDSA);
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(text(key.sign(signed.as_bytes()).unwrap()), signature);
    verifies(&eddsa_jwk(), signed, signature);
}

/// The public half alone verifies the signature, and nothing else.
fn verifies(jwk: &Value, signed: &str, signature: &str) {
    let key = VerifyingKey::from_public_jwk(&public_half(jwk.clone())).unwrap();
    let signature = bytes(signature);
    assert!(key.verify(signed.as_bytes(), &signature));
    assert!(!key.verify(&signed.as_bytes()[1..], &signature));
    assert!(!key.verify(signed.as_bytes(), &signature[1..]));
    assert!(!key.verify(signed.as_bytes(), &[]));
}

#[test]
fn S21_what_is_published_is_the_public_half() {
    for (jwk, alg) in [(rs256_jwk(), "RS256"), (es256_jwk(), "ES256"), (eddsa_jwk(), "EdDSA")] {
        let (_, key) = SigningKey::from_jwk(&jwk).unwrap();
        let mut expected = public_half(jwk);
        expected["alg"] = alg.into();
        expected["use"] = "sig".into();
        expected["kid"] = "k1".into();
        expected["key_ops"] = json!(["verify"]);
        assert_eq!(key.public_jwk("k1"), Some(expected));
    }
    let (_, secret) = SigningKey::from_jwk(&hs256_jwk()).unwrap();
    assert_eq!(secret.public_jwk("k1"), None);
}
