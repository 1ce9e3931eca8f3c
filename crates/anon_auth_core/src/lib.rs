//! What anon_auth does without Postgres: keys, signed tokens, refresh tokens, the ID tokens of other issuers, keys
//! sealed at rest, addresses, codes, passwords, rate limits, the answers of captcha services, and what proves something
//! without a row: challenges, device keys and work.
//!
//! Cryptography is aws-lc-rs throughout. Nothing here panics on input, and no error holds a key, a token
//! or a part of one.

pub mod address;
pub mod algorithm;
pub mod altcha;
pub mod challenge;
pub mod client_address;
pub mod code;
pub mod device_request;
pub mod digest;
pub mod id_token;
pub mod json;
mod jwk;
pub mod jwks;
pub mod jwt;
pub mod keys;
pub mod password;
pub mod random;
pub mod rate_limit;
pub mod refresh;
pub mod seal;
pub mod siteverify;

use base64::engine::{GeneralPurpose, general_purpose::URL_SAFE_NO_PAD};

/// base64url as JOSE wants it (RFC 7515, section 2): no padding, and exactly one text for each value.
const BASE64URL: GeneralPurpose = URL_SAFE_NO_PAD;
