//! Signing and verifying keys.
//!
//! jsonwebtoken reads a key's bytes anew at each signature, and its `CryptoProvider` takes plain functions that
//! have no place for a parsed key; so a raw signature is made by aws-lc-rs with a key that was parsed once.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, VerificationAlgorithm,
};

use curve25519_dalek::edwards::CompressedEdwardsY;

use crate::algorithm::Algorithm;
use crate::random;

/// The least length of a secret for HS256, in bytes: that of the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// An algorithm with its private key.
#[derive(Clone)]
pub struct SigningKey {
    private: Vec<u8>,
    signer: Signer,
    verifying: VerifyingKey,
}

#[derive(Clone)]
pub(crate) enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// A new random key: 32 bytes for HS256, 2048 bits for RS256, else what the curve says.
    pub fn generate(alg: Algorithm) -> Result<Self, KeyError> {
        match alg {
            Algorithm::HS256 => Self::from_secret(&random::bytes::<MIN_SECRET_BYTES>()),
            Algorithm::RS256 => Self::from_rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            Algorithm::ES256 => Self::from_ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Algorithm::EdDSA => Self::from_ed25519(Ed25519KeyPair::generate()?),
        }
    }

    /// Reads a private key: PKCS#8 DER (RFC 5958), for RS256 also PKCS#1 DER (RFC 8017), for HS256 the secret's
    /// bytes.
    ///
    /// Refuses a key of another kind or curve, RSA below 2048 bits and a secret below 32 bytes.
    pub fn from_private(alg: Algorithm, der_or_secret: &[u8]) -> Result<Self, KeyError> {
        let refused = |_| KeyError::invalid(format!("this is not a PKCS#8 private key for {alg}"));
        match alg {
            Algorithm::HS256 => Self::from_secret(der_or_secret),
            Algorithm::RS256 => RsaKeyPair::from_pkcs8(der_or_secret)
                .or_else(|_| RsaKeyPair::from_der(der_or_secret))
                .map_err(|_| KeyError::invalid("this is not an RSA private key of 2048 to 8192 bits"))
                .and_then(Self::from_rsa),
            Algorithm::ES256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der_or_secret)
                .map_err(refused)
                .and_then(Self::from_ecdsa),
            Algorithm::EdDSA => {
                Ed25519KeyPair::from_pkcs8(der_or_secret).map_err(refused).and_then(Self::from_ed25519)
            }
        }
    }

    /// The private key as [`from_private`](Self::from_private) takes it: a secret, to be stored as one.
    pub fn private_bytes(&self) -> &[u8] {
        &self.private
    }

    /// The one algorithm that this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.verifying.algorithm()
    }

    /// The key that verifies what this one signs.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.verifying.clone()
    }

    /// The signature of `message` in its JWS form (RFC 7518, section 3): for ES256, r and s of 32 bytes each.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(match &self.signer {
            Signer::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)?;
                signature
            }
            Signer::Ecdsa(key) => key.sign(&SystemRandom::new(), message)?.as_ref().to_vec(),
            Signer::Ed25519(key) => key.try_sign(message)?.as_ref().to_vec(),
        })
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    pub(crate) fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let (key, verifying) = (hmac_key(secret)?, VerifyingKey::from_secret(secret)?);
        Ok(Self { private: secret.to_vec(), signer: Signer::Hmac(key), verifying })
    }

    pub(crate) fn from_rsa(key: RsaKeyPair) -> Result<Self, KeyError> {
        Ok(Self {
            private: key.as_der()?.as_ref().to_vec(),
            verifying: VerifyingKey::from_public(Algorithm::RS256, key.public_key().as_ref())?,
            signer: Signer::Rsa(key),
        })
    }

    pub(crate) fn from_ecdsa(key: EcdsaKeyPair) -> Result<Self, KeyError> {
        Ok(Self {
            private: key.to_pkcs8v1()?.as_ref().to_vec(),
            verifying: VerifyingKey::from_public(Algorithm::ES256, key.public_key().as_ref())?,
            signer: Signer::Ecdsa(key),
        })
    }

    pub(crate) fn from_ed25519(key: Ed25519KeyPair) -> Result<Self, KeyError> {
        Ok(Self {
            // Version 1, which OpenSSL's tools read too.
            private: key.to_pkcs8v1()?.as_ref().to_vec(),
            verifying: VerifyingKey::from_public(Algorithm::EdDSA, key.public_key().as_ref())?,
            signer: Signer::Ed25519(key),
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

/// An algorithm with what verifies its signatures: a public key, or the secret of HS256.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    verifier: Verifier,
}

#[derive(Clone)]
enum Verifier {
    Hmac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl VerifyingKey {
    /// A key for HS256 from its secret, which must have at least 32 bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        Ok(Self { algorithm: Algorithm::HS256, verifier: Verifier::Hmac(hmac_key(secret)?) })
    }

    /// The one algorithm whose signatures this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature`, in its JWS form, is one of `message` under this key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }

    /// Reads a public key as aws-lc-rs takes it: DER for RSA, an uncompressed point for P-256, 32 bytes for
    /// Ed25519.
    pub(crate) fn from_public(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        let verification: &'static dyn VerificationAlgorithm = match algorithm {
            Algorithm::HS256 => return Err(KeyError::invalid("HS256 has no public key")),
            Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDSA => &ED25519,
        };
        let refused = || KeyError::invalid(format!("this is not a public key for {algorithm}"));
        if algorithm == Algorithm::EdDSA && !is_strong_point(bytes) {
            return Err(refused());
        }
        let key = ParsedPublicKey::new(verification, bytes).map_err(|_| refused())?;
        Ok(Self { algorithm, verifier: Verifier::Public(key) })
    }
}

/// Whether these bytes are the one spelling of a point of Curve25519 that has more than eight multiples: for another,
/// anybody can sign. AWS-LC takes such points, and more than one spelling.
fn is_strong_point(bytes: &[u8]) -> bool {
    let Ok(spelling) = CompressedEdwardsY::from_slice(bytes) else { return false };
    spelling.decompress().is_some_and(|point| !point.is_small_order() && point.compress() == spelling)
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.algorithm)
    }
}

fn hmac_key(secret: &[u8]) -> Result<Box<hmac::Key>, KeyError> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(KeyError::invalid(format!("a secret for HS256 has at least {MIN_SECRET_BYTES} bytes")));
    }
    Ok(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

/// Why a key is refused or failed to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key is not acceptable: why, without any of its secret.
    Invalid(String),
    /// The cryptographic library failed, for want of memory say.
    Crypto,
}

impl KeyError {
    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }

    /// Says that the `what` called `name` is none of those `supported`. A long name is cut.
    pub(crate) fn unsupported(what: &str, name: &str, supported: &str) -> Self {
        let name: String = name.chars().take(32).collect();
        Self::Invalid(format!("the {what} {name:?} is not supported: use {supported}"))
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Crypto => f.write_str("the cryptographic library failed"),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<aws_lc_rs::error::Unspecified> for KeyError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}
