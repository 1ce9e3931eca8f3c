//! Addresses: one form for each, and nothing that is none.

use anon_auth_core::address::{email, phone};
use proptest::prelude::*;

#[test]
fn S8_an_email_address_has_one_form() {
    for (text, normal) in [
        ("ada@example.org", "ada@example.org"),
        ("  Ada.Lovelace@EXAMPLE.Org\n", "ada.lovelace@example.org"),
        ("ada+news@example.org", "ada+news@example.org"),
        ("o'brien_1!#$%&*/?=^`{|}~-@example.co.uk", "o'brien_1!#$%&*/?=^`{|}~-@example.co.uk"),
        // RFC 6531: composed and decomposed, upper and lower case.
        ("jürgen@example.org", "jürgen@example.org"),
        ("ju\u{308}rgen@example.org", "jürgen@example.org"),
        ("JÜRGEN@example.org", "jürgen@example.org"),
        ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example"),
        // Full-width letters and the ideographic full stop of UTS 46.
        ("ada@ｅｘａｍｐｌｅ。org", "ada@example.org"),
        ("1@1.museum", "1@1.museum"),
        // Letters with marks: a dot of its own, a vowel that is taken away.
        ("İ@example.org", "i\u{307}@example.org"),
        ("संपर्क@example.org", "संपर्क@example.org"),
        // A joiner where IDNA takes one.
        ("ada@نامه\u{200c}ای.com", "ada@xn--mgba3gch31f060k.com"),
    ] {
        assert_eq!(email(text).as_deref(), Ok(normal), "{text}");
    }
}

#[test]
fn S8_what_is_no_email_address() {
    let long_local = format!("{}@example.org", "a".repeat(65));
    let long_domain = format!("a@{}org", "label.".repeat(50));
    let long_label = format!("a@{}.org", "a".repeat(64));
    let million = format!("{}@example.org", "a".repeat(1_000_000));
    for text in [
        "",
        " ",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "ada@example",
        "ada@@example.org",
        "ada@example..org",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "a da@example.org",
        "=?iso-8859-1?q?=61=62?=@example.org",
        "=?utf-8?q?eve=40evil.example=2c?=@example.org",
        "ada@exa mple.org",
        "ada@-example.org",
        "ada@example-.org",
        "ada@exa_mple.org",
        "ada@example.org.",
        "ada@[192.0.2.1]",
        "ada@192.0.2.1",
        "ada@[IPv6:2001:db8::1]",
        "\"ada\"@example.org",
        "\"a@b\"@example.org",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        "ada(comment)@example.org",
        "ada@example.org,eve@example.org",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada\r\n@example.org",
        "ada\0@example.org",
        "ada@exam\0ple.org",
        // What a reader does not see: right-to-left override, zero width, soft hyphen, no-break space, private use.
        "ada\u{202e}@example.org",
        "a\u{200b}da@example.org",
        "a\u{ad}da@example.org",
        "a\u{a0}da@example.org",
        "a\u{e000}da@example.org",
        "\u{feff}ada@example.org",
        "ada@xn--a.org",
        // Those that IDNA would drop: zero width space, soft hyphen, word joiner, variation selector; fillers.
        "ada@b.c\u{200b}d",
        "ada@exam\u{ad}ple.org",
        "ada@exam\u{2060}ple.org",
        "ada@exam\u{fe0f}ple.org",
        "ada@exam\u{200d}ple.org",
        "ada\u{fe0f}@example.org",
        "ada\u{3164}@example.org",
        "a\u{34f}da@example.org",
        "mailto:ada@example.org?x",
        &long_local,
        &long_domain,
        &long_label,
        &million,
    ] {
        assert!(email(text).is_err(), "{:?} became {:?}", text.chars().take(80).collect::<String>(), email(text));
    }
}

#[test]
fn S8_what_is_wrong_with_an_address_is_said() {
    let long_local = format!("{}@example.org", "a".repeat(65));
    for (text, why) in [
        ("ada", "it has no @"),
        ("ada@b", "its domain has no dot"),
        ("a..b@c.de", "before the @ it begins or ends with a dot, or has two in a row"),
        ("@c.de", "there is nothing before the @"),
        ("a(b)@c.de", "it holds a character before the @ that is not taken there"),
        ("\"ada\"@c.de", "it holds a character before the @ that is not taken there"),
        ("ada@b.c\u{200b}d", "it holds a space or an invisible character"),
        ("ada@b_c.de", "its domain is not a name of the DNS"),
        (&long_local, "it has more than 64 bytes before the @"),
    ] {
        assert_eq!(email(text).map_err(|error| error.to_string()), Err(why.to_owned()), "{text}");
    }
}

#[test]
fn S8_a_phone_number_has_one_form() {
    for text in ["+4930123456", " +49 30 123456 ", "+49-30-123.456", "+49 (30) 123 456", "+49\u{a0}30\u{a0}123456"] {
        assert_eq!(phone(text).as_deref(), Ok("+4930123456"), "{text}");
    }
    assert_eq!(phone("+123456789012345").as_deref(), Ok("+123456789012345"));
}

#[test]
fn S8_what_is_no_phone_number() {
    let million = format!("+{}", "1".repeat(1_000_000));
    for text in [
        "",
        "+",
        "030 123456",
        "0049 30 123456",
        "4930123456",
        "+0301234567",
        "+49 (0) 30 123456",
        "+123456",
        "+1234567890123456",
        "+49 30 12345x",
        "++4930123456",
        "+49+30123456",
        "+４９３０１２３４５６",
        "tel:+4930123456",
        "+4930123456;ext=1",
        "+49\n30123456",
        &million,
    ] {
        assert!(phone(text).is_err(), "{:?}", text.chars().take(80).collect::<String>());
    }
}

proptest! {
    /// Nothing panics, and the form is a fixed point: what is stored is found again.
    #[test]
    fn S8_normalising_twice_changes_nothing(text in "\\PC{0,40}", domain in "[a-z0-9.äöü-]{0,20}") {
        for text in [text.clone(), format!("{text}@{domain}"), format!("{text}@example.org"), format!("+{text}")] {
            if let Ok(address) = email(&text) {
                prop_assert_eq!(email(&address), Ok(address.clone()));
                prop_assert!(address.len() <= 254 && !address.contains(char::is_whitespace) && !address.contains(char::is_control));
            }
            if let Ok(number) = phone(&text) {
                prop_assert_eq!(phone(&number), Ok(number.clone()));
            }
        }
    }

    #[test]
    fn S8_any_case_is_one_address(local in "[a-zA-Z0-9]{1,20}", domain in "[a-zA-Z]{1,20}") {
        let address = format!("{local}@{domain}.org");
        prop_assert_eq!(email(&address.to_uppercase()), email(&address.to_lowercase()));
    }
}
