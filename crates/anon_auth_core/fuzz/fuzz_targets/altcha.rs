//! No challenge and no solution that we did not make is ever believed.
#![no_main]

use std::sync::LazyLock;

use anon_auth_core::challenge::{self, Database};
use anon_auth_core::{altcha, refresh::RefreshKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<RefreshKey> = LazyLock::new(RefreshKey::generate);

const HERE: Database = Database { system: 1, oid: 2 };

fuzz_target!(|text: &str| {
    for text in [text, &STANDARD.encode(text)] {
        if let Ok(solution) = altcha::decode(text) {
            assert!(solution.verify(&KEY, HERE).is_err());
        }
        if let Ok(challenge) = challenge::decode(text) {
            assert!(challenge.verify(&KEY, "device", HERE).is_err());
        }
    }
});
