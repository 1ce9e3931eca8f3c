//! `iss`, `aud`, `exp` and `nbf`.

use anon_auth_core::jwt::{ClaimError, Expected, check_claims, numeric_date};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::object;

const NOW: i64 = 1_800_000_000;

/// Checks good claims with `changes` made to them; null removes one.
fn check(changes: Value) -> Result<(), ClaimError> {
    let mut claims = object(json!({"iss": "https://auth.example.com", "aud": "authenticated", "exp": NOW + 1}));
    for (name, value) in object(changes) {
        if value.is_null() {
            claims.remove(&name);
        } else {
            claims.insert(name, value);
        }
    }
    check_claims(&claims, &Expected { issuer: "https://auth.example.com", audience: "authenticated", now: NOW })
}

#[test]
fn claims_in_order_hold() {
    assert_eq!(check(json!({})), Ok(()));
    assert_eq!(check(json!({"aud": ["x", "authenticated"]})), Ok(()));
    assert_eq!(check(json!({"nbf": NOW})), Ok(()));
    assert_eq!(check(json!({"nbf": 0.5, "iat": "never looked at"})), Ok(()));
}

#[test]
fn another_issuer_is_refused() {
    for iss in [
        json!("https://auth.example.com/"),
        json!("https://AUTH.example.com"),
        json!(""),
        json!(1),
        json!(["https://auth.example.com"]),
        json!({}),
        json!(true),
    ] {
        assert_eq!(check(json!({ "iss": iss })), Err(ClaimError::Issuer), "{iss}");
    }
    assert_eq!(check(json!({"iss": null})), Err(ClaimError::Missing("iss")));
}

#[test]
fn another_audience_is_refused() {
    for aud in [
        json!("anon"),
        json!("Authenticated"),
        json!(""),
        json!([]),
        json!(["anon"]),
        json!(["authenticated", 1]),
        json!([null, "authenticated"]),
        json!([["authenticated"]]),
        json!({"authenticated": true}),
        json!(1),
    ] {
        assert_eq!(check(json!({ "aud": aud })), Err(ClaimError::Audience), "{aud}");
    }
    assert_eq!(check(json!({"aud": null})), Err(ClaimError::Missing("aud")));
}

#[test]
fn an_expired_token_is_refused_at_the_very_second() {
    for exp in [json!(NOW), json!(NOW - 1), json!(0), json!(-1), json!(i64::MIN), json!(-1e308)] {
        assert_eq!(check(json!({ "exp": exp })), Err(ClaimError::Expired), "{exp}");
    }
    assert_eq!(check(json!({"exp": NOW as f64})), Err(ClaimError::Expired));
    assert_eq!(check(json!({"exp": NOW as f64 + 0.5})), Ok(()));
    for exp in [json!(i64::MAX), json!(u64::MAX), json!(1e19), json!(1e308)] {
        assert_eq!(check(json!({ "exp": exp })), Ok(()), "{exp}");
    }
    assert_eq!(check(json!({"exp": null})), Err(ClaimError::Missing("exp")));
}

#[test]
fn a_token_of_tomorrow_is_refused() {
    for nbf in [json!(NOW + 1), json!(NOW as f64 + 0.5), json!(u64::MAX), json!(1e308)] {
        assert_eq!(check(json!({ "nbf": nbf })), Err(ClaimError::NotYetValid), "{nbf}");
    }
}

#[test]
fn a_date_of_the_wrong_type_is_refused() {
    for date in [json!("1800000001"), json!(true), json!([NOW + 1]), json!({}), json!("")] {
        assert_eq!(check(json!({ "exp": date })), Err(ClaimError::NotADate("exp")), "{date}");
        assert_eq!(check(json!({ "nbf": date })), Err(ClaimError::NotADate("nbf")), "{date}");
    }
    let claims = object(json!({"iss": "a", "aud": "b", "exp": null}));
    let expected = Expected { issuer: "a", audience: "b", now: NOW };
    assert_eq!(check_claims(&claims, &expected), Err(ClaimError::NotADate("exp")));
    assert_eq!(numeric_date(&Value::Null), None);
}

proptest! {
    #[test]
    fn a_date_rounded_up_is_reached_when_the_date_is(date in -1e12..1e12_f64, now in -1_000_000_000_000..1_000_000_000_000_i64) {
        let rounded = numeric_date(&json!(date)).unwrap();
        prop_assert_eq!(now >= rounded, now as f64 >= date);
        // Near the date itself too, where rounding decides.
        for now in [date.floor() as i64, date.ceil() as i64] {
            prop_assert_eq!(now >= rounded, now as f64 >= date);
        }
    }
}
