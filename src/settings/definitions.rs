//! Every setting, once: its name, type, allowed values, default and description.

use super::values::Kind::{self, Boolean, Bytes, Count, Interval, Kibibytes, Text, Word};
use super::values::{DAY, Definition, LONGEST, SECOND, Value};
use crate::error::Result;
use anon_auth_core::algorithm::Algorithm;

/// Defines the settings, each as `name: type = allowed values, default, description;`.
macro_rules! settings {
    ($($name:ident: $type:ty = $kind:expr, $default:literal, $description:literal;)*) => {
        /// The settings in force. Intervals are in microseconds.
        pub struct Settings {
            $(#[doc = $description] pub $name: $type,)*
        }

        impl Settings {
            /// # Arguments
            /// * `text` – a setting's value as it is stored, or its default
            pub(super) fn read(text: impl Fn(&Definition) -> String) -> Result<Self> {
                Ok(Self {
                    $($name: {
                        const KIND: Kind = $kind;
                        <$type>::read(&text(super::definition(stringify!($name))?), &KIND)?
                    },)*
                })
            }
        }

        pub(super) static DEFINITIONS: &[Definition] = &[
            $(Definition { name: stringify!($name), kind: $kind, default: $default, description: $description },)*
        ];
    };
}

#[rustfmt::skip]
settings! {
    disabled: bool = Boolean, "false",
        "Refuse anonymous sign-in";
    sign_in_mode: &'static str = Word(&["new", "reuse"]), "new",
        "new: each anonymous sign-in makes a new guest; reuse: a sign-in with a valid refresh token returns the same guest";
    guest_storage: &'static str = Word(&["eager", "lazy"]), "eager",
        "eager: a guest is stored when it signs in; lazy: when it first refreshes its session, links, or writes through auth.ensure_user()";
    captcha: &'static str = Word(&["off", "turnstile", "hcaptcha", "altcha"]), "off",
        "Captcha that has to be solved for anonymous sign-in: a service (see auth.set_captcha()), or altcha, proof of work (see auth.create_challenge())";
    captcha_timeout: i64 = Interval(SECOND / 10, 60 * SECOND), "00:00:05",
        "How long a captcha service may take before the sign-in fails";
    issuer: String = Text, "anon_auth",
        "Issuer (iss) of access tokens; those of any other issuer are refused";
    audience: String = Text, "authenticated",
        "Audience (aud) of access tokens; those for any other audience are refused";
    access_token_lifetime: i64 = Interval(SECOND, 7 * DAY), "01:00:00",
        "How long an access token is valid";
    session_idle_timeout: i64 = Interval(SECOND, LONGEST), "60 days",
        "A session ends this long after its last refresh";
    session_lifetime: i64 = Interval(0, LONGEST), "00:00:00",
        "A session ends this long after sign-in, however often it is refreshed; 0 turns the limit off";
    refresh_token_reuse_interval: i64 = Interval(0, 3600 * SECOND), "00:00:10",
        "For this long a replaced refresh token still gets the current one; later it ends the session";
    user_metadata_limit: i64 = Bytes(2, 6144), "4096",
        "Size limit of user_metadata, which is part of every access token";
    signing_algorithm: Algorithm = Word(&["ES256", "EdDSA", "RS256", "HS256"]), "ES256",
        "Algorithm of new signing keys";
    cleanup_age: i64 = Interval(0, LONGEST), "90 days",
        "Clean-up deletes only guests created at least this long ago";
    cleanup_inactivity: i64 = Interval(0, LONGEST), "90 days",
        "Clean-up deletes only guests whose last activity is at least this long ago (counted in days, UTC)";
    cleanup_unreachable_only: bool = Boolean, "true",
        "Clean-up deletes only guests with nothing left to come back with: no live session, device key or code";
    cleanup_spare_owners: bool = Boolean, "false",
        "Clean-up spares guests who own rows in application tables, whatever the foreign key's delete action";
    audit_log_retention: i64 = Interval(DAY, LONGEST), "90 days",
        "Clean-up deletes audit log entries older than this";
    merge_keep_guests: bool = Boolean, "false",
        "Keep a guest after its data were merged into an account; its sessions, codes and device keys go all the same";
    promotion_conflict: &'static str = Word(&["error", "login"]), "error",
        "What comes of a guest who links an address or an account at a provider that another user has: error, or login, a session of that user (merge the guest then, with its token)";
    hook_timeout: i64 = Interval(1000, 300 * SECOND), "00:00:05",
        "How long a hook may take before the call that it takes part in fails";
    site_url: String = Text, "http://localhost:3000",
        "Address of your site, for the links in messages";
    message_retention: i64 = Interval(0, LONGEST), "7 days",
        "Clean-up deletes messages that were sent, given up or expired this long ago (their codes go at once)";
    manual_linking: bool = Boolean, "true",
        "Guests can become permanent, and users can link further addresses and identities";
    promotion_keeps_device_keys: bool = Boolean, "true",
        "A guest that becomes permanent keeps its device keys (not: when a link was opened by somebody who is not signed in)";
    otp_lifetime: i64 = Interval(SECOND, 7 * DAY), "01:00:00",
        "How long a code or a link that proves an address is good";
    otp_resend_interval: i64 = Interval(0, DAY), "00:01:00",
        "A user gets the next code of the same purpose, and an address the next from anybody, this long after the one before";
    handover_code_lifetime: i64 = Interval(SECOND, DAY), "00:05:00",
        "How long a promotion code or a transfer code is good";
    challenge_lifetime: i64 = Interval(SECOND, 3600 * SECOND), "00:05:00",
        "How long a challenge that a device key signs or a browser solves is good";
    device_keys_per_user: i64 = Count(1, 1000), "10",
        "Device keys that a guest can register";
    altcha_max_number: i64 = Count(1, 100_000_000), "100000",
        "Work that a browser does for an ALTCHA challenge: half as many hashes on average";
    password_min_length: i64 = Count(1, 1024), "8",
        "Characters that a new password has at the least; it has 1024 bytes at the most";
    password_hash_memory: i64 = Kibibytes(128, anon_auth_core::password::MAX_MEMORY as i64), "19456",
        "Memory that hashing a password takes (Argon2id)";
    password_hash_iterations: i64 = Count(1, 1000), "2",
        "Iterations of hashing a password (Argon2id)";
    password_hash_parallelism: i64 = Count(1, 16), "1",
        "Degree of parallelism of hashing a password (Argon2id); it is computed on one processor all the same";
    otp_attempt_limit: i64 = Count(1, 1000), "5",
        "Attempts of a user at its own codes, and of a client address at a transfer code, within otp_attempt_window; right ones count";
    otp_attempt_limit_total: i64 = Count(1, 100_000), "50",
        "Attempts at a transfer code from all client addresses together within otp_attempt_window";
    otp_attempt_window: i64 = Interval(SECOND, 30 * DAY), "01:00:00",
        "Attempts at codes count for this long, from the first one on";
    otp_message_limit: i64 = Count(1, 1_000_000), "5",
        "Messages to one e-mail address or phone number that one client address can ask for within otp_message_window";
    otp_message_limit_total: i64 = Count(1, 1_000_000), "20",
        "Messages to one e-mail address or phone number, whoever asks for them, within otp_message_window";
    otp_message_limit_client: i64 = Count(1, 1_000_000), "30",
        "E-mails, and text messages, that one client address can ask for within otp_message_window";
    otp_message_window: i64 = Interval(SECOND, 30 * DAY), "01:00:00",
        "Messages count for this long, from the first one on";
    sign_in_rate_limit: i64 = Count(0, 1_000_000), "30",
        "Anonymous sign-ins from one client address in an hour; 0 turns the limit off";
    otp_rate_limit: i64 = Count(0, 1_000_000), "60",
        "Requests for a code that proves an address from one client address in an hour; 0 turns the limit off";
    verify_rate_limit: i64 = Count(0, 1_000_000), "360",
        "Codes, links, ID tokens and requests of device keys that one client address presents in an hour; 0 turns the limit off";
    refresh_rate_limit: i64 = Count(0, 1_000_000), "1800",
        "Refreshes from one client address in an hour; 0 turns the limit off";
    password_rate_limit: i64 = Count(0, 1_000_000), "360",
        "Passwords that one client address signs in with, or sets, in an hour; 0 turns the limit off";
    password_attempt_limit: i64 = Count(1, 100_000), "10",
        "Wrong passwords for one account from one client address within password_attempt_window";
    password_attempt_window: i64 = Interval(SECOND, 30 * DAY), "00:15:00",
        "Wrong passwords count for this long, from the first one on";
}
