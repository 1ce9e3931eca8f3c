//! Keys as JSON Web Keys (RFC 7517, with RFC 7518 section 6 and RFC 8037 section 2), read strictly: the key's kind,
//! curve, use and algorithm must agree, and its two halves must fit.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use serde_json::{Map, Value, json};

use crate::BASE64URL;
use crate::algorithm::Algorithm;
use crate::keys::{KeyError, Signer, SigningKey, VerifyingKey};

/// Members that hold a private key or a part of one.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The length of each number of P-256 and of an Ed25519 key, in bytes.
const CURVE_BYTES: usize = 32;

impl SigningKey {
    /// Reads a private JWK; gives its `kid`, if it has one, and the key.
    ///
    /// `alg` may be absent where the kind of key implies it: EC P-256 is ES256, OKP Ed25519 is EdDSA, RSA is
    /// RS256, oct is HS256. `use`, if present, must be "sig", and `key_ops` must include "sign". An RSA key needs
    /// its prime factors and at least 2048 bits; a secret (oct) at least 32 bytes. Errors name what is wrong and
    /// hold no key material.
    pub fn from_jwk(jwk: &Value) -> Result<(Option<String>, Self), KeyError> {
        let jwk = Jwk::new(jwk, "sign")?;
        let kid = jwk.text("kid")?;
        if kid == Some("") {
            return Err(KeyError::invalid("the JWK's kid is empty"));
        }
        let key = match jwk.algorithm {
            Algorithm::HS256 => Self::from_secret(&jwk.private("k")?)?,
            Algorithm::RS256 => Self::from_rsa(jwk.rsa_key_pair()?)?,
            Algorithm::ES256 => {
                let private = jwk.curve_number("d", jwk.private("d")?)?;
                let key = EcdsaKeyPair::from_private_key_and_public_key(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &private,
                    &jwk.point()?,
                );
                Self::from_ecdsa(key.map_err(|_| halves_differ())?)?
            }
            Algorithm::EdDSA => {
                let private = jwk.curve_number("d", jwk.private("d")?)?;
                let key = Ed25519KeyPair::from_seed_and_public_key(&private, &jwk.x()?);
                Self::from_ed25519(key.map_err(|_| halves_differ())?)?
            }
        };
        Ok((kid.map(str::to_owned), key))
    }

    /// The public JWK, for a JWKS; none for HS256, whose key is a secret.
    pub fn public_jwk(&self, kid: &str) -> Option<Value> {
        let text = |bytes: &[u8]| BASE64URL.encode(bytes);
        let mut jwk = match self.signer() {
            Signer::Hmac(_) => return None,
            Signer::Rsa(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA",
                    "n": text(public.modulus().big_endian_without_leading_zero()),
                    "e": text(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Signer::Ecdsa(key) => {
                // An uncompressed point: the byte 4, then x, then y.
                let (x, y) = key.public_key().as_ref()[1..].split_at(CURVE_BYTES);
                json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y)})
            }
            Signer::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())})
            }
        };
        jwk["alg"] = self.algorithm().name().into();
        jwk["use"] = "sig".into();
        jwk["kid"] = kid.into();
        jwk["key_ops"] = json!(["verify"]);
        Some(jwk)
    }
}

impl VerifyingKey {
    /// Reads a public JWK, as strictly as [`SigningKey::from_jwk`] reads a private one; `key_ops`, if present, must
    /// include "verify". A key with a private member and a shared secret (oct) are refused.
    pub fn from_public_jwk(jwk: &Value) -> Result<Self, KeyError> {
        let jwk = Jwk::new(jwk, "verify")?;
        check_public(jwk.members)?;
        let bytes = match jwk.algorithm {
            Algorithm::RS256 => jwk.rsa_public()?.as_der()?.as_ref().to_vec(),
            Algorithm::ES256 => jwk.point()?,
            _ => jwk.x()?,
        };
        Self::from_public(jwk.algorithm, &bytes)
    }
}

/// Refuses a JWK that holds anything secret.
pub(crate) fn check_public(members: &Map<String, Value>) -> Result<(), KeyError> {
    if members.get("kty").is_some_and(|kty| kty == "oct") {
        return Err(KeyError::invalid("a public key is due, not a shared secret (kty oct)"));
    }
    match PRIVATE_MEMBERS.into_iter().find(|name| members.contains_key(*name)) {
        Some(name) => {
            Err(KeyError::invalid(format!("a public key is due, and this JWK has the private member {name}")))
        }
        None => Ok(()),
    }
}

/// A JWK whose kind, algorithm and permitted use agree.
struct Jwk<'a> {
    members: &'a Map<String, Value>,
    algorithm: Algorithm,
}

impl<'a> Jwk<'a> {
    /// `operation` is what the key is wanted for, as `key_ops` calls it.
    fn new(jwk: &'a Value, operation: &str) -> Result<Self, KeyError> {
        let members = jwk.as_object().ok_or_else(|| KeyError::invalid("a JWK is a JSON object"))?;
        let mut jwk = Self { members, algorithm: Algorithm::HS256 };
        jwk.algorithm = jwk.implied_algorithm()?;
        if let Some(alg) = jwk.text("alg")? {
            let alg: Algorithm = alg.parse()?;
            if alg != jwk.algorithm {
                return Err(KeyError::invalid(format!("the JWK's alg {alg} does not fit its kty and crv")));
            }
        }
        if jwk.text("use")?.is_some_and(|usage| usage != "sig") {
            return Err(KeyError::invalid("the JWK's use is not \"sig\""));
        }
        if let Some(operations) = members.get("key_ops") {
            let listed = operations.as_array().is_some_and(|list| list.iter().any(|listed| listed == operation));
            if !listed {
                return Err(KeyError::invalid(format!("the JWK's key_ops do not include {operation:?}")));
            }
        }
        Ok(jwk)
    }

    fn implied_algorithm(&self) -> Result<Algorithm, KeyError> {
        let curve_is = |expected: &str, algorithm| match self.due("crv")? {
            curve if curve == expected => Ok(algorithm),
            curve => Err(KeyError::unsupported("curve", curve, expected)),
        };
        match self.due("kty")? {
            "oct" => Ok(Algorithm::HS256),
            "RSA" => Ok(Algorithm::RS256),
            "EC" => curve_is("P-256", Algorithm::ES256),
            "OKP" => curve_is("Ed25519", Algorithm::EdDSA),
            other => Err(KeyError::unsupported("key type", other, "EC, OKP, RSA or oct")),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, KeyError> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(KeyError::invalid(format!("the JWK's {name} is not a string"))),
        }
    }

    fn due(&self, name: &str) -> Result<&'a str, KeyError> {
        self.text(name)?.ok_or_else(|| KeyError::invalid(format!("the JWK has no {name}")))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, KeyError> {
        BASE64URL
            .decode(self.due(name)?)
            .map_err(|_| KeyError::invalid(format!("the JWK's {name} is not base64url without padding")))
    }

    fn private(&self, name: &str) -> Result<Vec<u8>, KeyError> {
        if self.members.contains_key(name) {
            return self.bytes(name);
        }
        Err(KeyError::invalid(format!("the JWK has no private part: {name} is missing")))
    }

    /// A number of the curve has a fixed length, leading zeros included (RFC 7518, sections 6.2.1.2 and 6.2.2.1).
    fn curve_number(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, KeyError> {
        if bytes.len() != CURVE_BYTES {
            return Err(KeyError::invalid(format!("the JWK's {name} is not {CURVE_BYTES} bytes long")));
        }
        Ok(bytes)
    }

    fn x(&self) -> Result<Vec<u8>, KeyError> {
        self.curve_number("x", self.bytes("x")?)
    }

    /// The public point of an EC key, uncompressed (SEC 1, section 2.3.3).
    fn point(&self) -> Result<Vec<u8>, KeyError> {
        let y = self.curve_number("y", self.bytes("y")?)?;
        Ok([&[4], self.x()?.as_slice(), &y].concat())
    }

    fn rsa_public(&self) -> Result<PublicKeyComponents<Vec<u8>>, KeyError> {
        let (n, e) = (self.bytes("n")?, self.bytes("e")?);
        for (name, number) in [("n", &n), ("e", &e)] {
            if number.first().is_none_or(|first| *first == 0) {
                return Err(KeyError::invalid(format!("the JWK's {name} is empty or begins with a zero byte")));
            }
        }
        let bits = n.len() * 8 - n[0].leading_zeros() as usize;
        if !(2048..=8192).contains(&bits) {
            return Err(KeyError::invalid(format!("an RSA key has 2048 to 8192 bits, not {bits}")));
        }
        Ok(PublicKeyComponents { n, e })
    }

    fn rsa_key_pair(&self) -> Result<RsaKeyPair, KeyError> {
        let public_key = self.rsa_public()?;
        let d = self.private("d")?;
        if self.members.contains_key("oth") {
            return Err(KeyError::invalid("an RSA key of more than two primes is not supported"));
        }
        RsaKeyPair::from_components(&KeyPairComponents {
            public_key,
            d,
            p: self.private("p")?,
            q: self.private("q")?,
            dP: self.private("dp")?,
            dQ: self.private("dq")?,
            qInv: self.private("qi")?,
        })
        .map_err(|_| halves_differ())
    }
}

fn halves_differ() -> KeyError {
    KeyError::invalid("the JWK's public and private parts do not belong together")
}
