//! No refresh token that we did not make is ever believed.
#![no_main]

use std::sync::LazyLock;

use anon_auth_core::refresh::{RefreshKey, decode};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<RefreshKey> = LazyLock::new(RefreshKey::generate);

fuzz_target!(|text: &str| {
    if let Ok(token) = decode(text) {
        assert!(token.verify(&KEY).is_err());
    }
});
