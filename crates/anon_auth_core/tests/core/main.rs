//! The library's tests. A test that proves a requirement has its number for a name.
#![allow(non_snake_case)]

mod address;
mod altcha;
mod challenge;
mod claims;
mod client_address;
mod code;
mod device_request;
mod hostile_headers;
mod hostile_tokens;
mod id_token;
mod jwk;
mod jwks;
mod keys;
mod password;
mod rate_limit;
mod refresh;
mod rfc;
mod seal;
mod siteverify;
mod support;
mod tokens;
