//! What the answers of captcha services mean (S17, C3): nobody is let in unless the answer says so beyond doubt.

use anon_auth_core::siteverify::{Expected, Refusal, Service, judge};
use proptest::prelude::*;

fn hostnames() -> Vec<String> {
    vec!["www.example.com".into(), "app.example.com".into()]
}

#[test]
fn S17_answers_as_the_services_give_them() {
    let any = Expected::default();
    let turnstile = br#"{"success": true, "error-codes": [], "challenge_ts": "2026-10-06T00:07:23.274Z",
        "hostname": "www.example.com", "action": "login", "cdata": "sessionid-1", "metadata": {"interactive": false}}"#;
    let hcaptcha = br#"{"success": true, "challenge_ts": "2026-10-06T00:07:23Z", "hostname": "www.example.com",
        "credit": false, "error-codes": []}"#;
    assert_eq!(judge(turnstile, &any), Ok(()));
    assert_eq!(judge(hcaptcha, &any), Ok(()));

    let hostnames = hostnames();
    let expected = Expected { hostnames: &hostnames, action: Some("login") };
    assert_eq!(judge(turnstile, &expected), Ok(()));
    assert_eq!(judge(br#"{"success": true, "hostname": "APP.example.com", "action": "login"}"#, &expected), Ok(()));
    for service in Service::ALL {
        assert_eq!(service.name().parse(), Ok(service));
        assert!(service.url().starts_with("https://") && service.url().ends_with("/siteverify"));
    }
    assert_eq!("Turnstile".parse::<Service>(), Err(()));
}

#[test]
fn C3_a_good_token_of_another_site_or_action() {
    let hostnames = hostnames();
    let here = Expected { hostnames: &hostnames, action: None };
    for hostname in
        [r#""example.com""#, r#""www.example.com.evil.example""#, r#""""#, "null", r#"["www.example.com"]"#]
    {
        let answer = format!(r#"{{"success": true, "hostname": {hostname}}}"#);
        assert_eq!(judge(answer.as_bytes(), &here), Err(Refusal::Token("it was made on another site".into())));
    }
    assert!(judge(br#"{"success": true}"#, &here).is_err());
    let login = Expected { hostnames: &[], action: Some("login") };
    for answer in
        [r#"{"success": true, "action": "Login"}"#, r#"{"success": true, "action": ""}"#, r#"{"success": true}"#]
    {
        assert_eq!(judge(answer.as_bytes(), &login), Err(Refusal::Token("it was made for another action".into())));
    }
}

#[test]
fn C3_error_codes_tell_a_bad_token_from_a_bad_service() {
    let refused = |codes: &str| judge(format!(r#"{{"success": false{codes}}}"#).as_bytes(), &Expected::default());
    for code in ["timeout-or-duplicate", "invalid-input-response", "expired-input-response", "already-seen-response"]
    {
        assert_eq!(refused(&format!(r#", "error-codes": ["{code}"]"#)), Err(Refusal::Token(code.into())));
    }
    for codes in
        ["", r#", "error-codes": []"#, r#", "error-codes": null"#, r#", "error-codes": "timeout-or-duplicate""#]
    {
        assert_eq!(refused(codes), Err(Refusal::Token("refused".into())), "{codes}");
    }
    for code in ["invalid-input-secret", "missing-input-secret", "internal-error", "sitekey-secret-mismatch"] {
        assert_eq!(refused(&format!(r#", "error-codes": ["{code}"]"#)), Err(Refusal::Service(code.into())));
        let both = format!(r#", "error-codes": ["invalid-input-response", "{code}"]"#);
        assert_eq!(refused(&both), Err(Refusal::Service(code.into())));
    }
    // It may quote the request, and the secret in it.
    let quoted = refused(r#", "error-codes": ["no such secret: 0xSECRET"]"#);
    assert_eq!(quoted, Err(Refusal::Service("an error of its own".into())));
}

#[test]
fn C3_whatever_else_is_no_success() {
    for answer in [
        "",
        "true",
        "null",
        "[true]",
        r#"{"success": "true"}"#,
        r#"{"success": 1}"#,
        r#"{"success": null}"#,
        r#"{"Success": true}"#,
        r#"{"success": true"#,
        r#"{"success": true} "#.repeat(2).as_str(),
        r#"{"success": false, "success": true}"#,
        r#"{"success": true, "success": true}"#,
        "<html>success: true</html>",
    ] {
        let judged = judge(answer.as_bytes(), &Expected::default());
        assert!(matches!(judged, Err(Refusal::Service(_))), "{answer}: {judged:?}");
    }
    assert!(judge(b"\xff\xfe", &Expected::default()).is_err());
}

proptest! {
    #[test]
    fn C3_no_bytes_make_it_panic(answer in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(judge(&answer, &Expected::default()).is_err());
    }
}
