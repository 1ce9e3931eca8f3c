//! Client addresses: what is limited together, and what a client cannot make up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anon_auth_core::client_address::ClientAddress;
use proptest::prelude::*;

fn read(text: &str) -> Option<String> {
    ClientAddress::parse(text).map(|address| address.to_string())
}

fn forwarded(value: &str, proxies: usize) -> Option<String> {
    ClientAddress::forwarded(value, proxies).map(|address| address.to_string())
}

#[test]
fn S16_one_address_in_all_its_forms() {
    for text in [
        "192.0.2.1",
        " 192.0.2.1\t",
        "192.0.2.1:80",
        "\"192.0.2.1\"",
        "\"192.0.2.1:65535\"",
        "::ffff:192.0.2.1",
        "::ffff:c000:201",
        "[::FFFF:192.0.2.1]:1",
        "[::ffff:192.0.2.1%eth0]",
    ] {
        assert_eq!(read(text).as_deref(), Some("192.0.2.1"), "{text}");
    }
    for text in [
        "2001:db8:0:1::",
        "2001:DB8:0:1:ffff:ffff:ffff:ffff",
        "[2001:db8:0:1::7]",
        "[2001:db8:0:1::7]:443",
        "\"[2001:db8:0:1::7]:443\"",
        "2001:db8:0:1::7%eth0",
        "2001:0db8:0000:0001:0000:0000:0000:0007",
    ] {
        assert_eq!(read(text).as_deref(), Some("2001:db8:0:1::/64"), "{text}");
    }
    // Not IPv4 in disguise.
    assert_eq!(read("::1").as_deref(), Some("::/64"));
    assert_eq!(read("::192.0.2.1").as_deref(), Some("::/64"));
    assert_eq!(ClientAddress::LOCAL.to_string(), "local");
}

#[test]
fn S16_what_is_no_address() {
    for text in [
        "",
        " ",
        "\"",
        "unknown",
        "_hidden",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1/32",
        "192.0.2.1:",
        "192.0.2.1:+80",
        "192.0.2.1:65536",
        "192.0.2.1:80:80",
        "192.0.2.1%eth0",
        "[192.0.2.1]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]443",
        "[2001:db8::1]:",
        "[2001:db8::1]:x",
        "[]",
        "2001:db8::1%",
        "2001:db8::1/64",
        "2001:db8:::1",
        "\u{661}92.0.2.1",
        "192.0.2.1\0",
        "192.0.2.1\n",
    ] {
        assert_eq!(read(text), None, "{text:?}");
    }
}

#[test]
fn N15_the_nth_from_the_right_counts() {
    let value = "203.0.113.9, 198.51.100.7 ,192.0.2.1";
    assert_eq!(forwarded(value, 1).as_deref(), Some("192.0.2.1"));
    assert_eq!(forwarded(value, 2).as_deref(), Some("198.51.100.7"));
    assert_eq!(forwarded(value, 3).as_deref(), Some("203.0.113.9"));
    // Fewer than there are proxies: it came by another way.
    assert_eq!(forwarded(value, 4), None);
    assert_eq!(forwarded(value, usize::MAX), None);
    assert_eq!(forwarded(value, 0), None);
    // The one that counts is malformed; its neighbours do not stand in for it.
    assert_eq!(forwarded("203.0.113.9, , 192.0.2.1", 2), None);
    assert_eq!(forwarded("203.0.113.9,", 1), None);
    assert_eq!(forwarded("", 1), None);
}

#[test]
fn S16_the_standard_header() {
    let value =
        "for=203.0.113.9;proto=http, For=\"[2001:db8:0:1::7]:4711\";by=192.0.2.1, proto=https; FOR=192.0.2.43";
    assert_eq!(forwarded(value, 1).as_deref(), Some("192.0.2.43"));
    assert_eq!(forwarded(value, 2).as_deref(), Some("2001:db8:0:1::/64"));
    assert_eq!(forwarded(value, 3).as_deref(), Some("203.0.113.9"));
    for value in
        ["by=192.0.2.1", "for=unknown", "for=_hidden", "for=", "for=192.0.2.1;for=192.0.2.2", "x=1;192.0.2.1"]
    {
        assert_eq!(forwarded(value, 1), None, "{value}");
    }
    // A quotation mark that the client left open swallows nothing.
    assert_eq!(forwarded("for=\"x, for=192.0.2.1", 1).as_deref(), Some("192.0.2.1"));
}

#[test]
fn N15_what_a_proxy_quotes_of_the_client_names_no_address() {
    for host in ["a", "a:80", r#"a\"b"#, r"a\\"] {
        let value = format!(r#"for=192.0.2.1;host="{host}""#);
        assert_eq!(forwarded(&value, 1).as_deref(), Some("192.0.2.1"), "{value}");
        assert_eq!(forwarded(&format!("{value}, for=192.0.2.2"), 2).as_deref(), Some("192.0.2.1"), "{value}");
    }
    for host in [
        "a,for=203.0.113.9",
        "a,for=203.0.113.9;b=",
        r#"a,for=203.0.113.9;b=\""#,
        r#"a\",for=203.0.113.9;b=\""#,
        "a,for=203.0.113.9,b",
    ] {
        let value = format!(r#"for=192.0.2.1;host="{host}""#);
        assert_eq!(forwarded(&value, 1), None, "{value}");
        assert_eq!(forwarded(&format!("for=192.0.2.2, {value}"), 2), None, "{value}");
    }
    assert_eq!(forwarded(r#"for=192.0.2.1;host="a;for=203.0.113.9""#, 1), None);
}

proptest! {
    #[test]
    fn N15_nothing_on_the_left_moves_it(made_up in "\\PC{0,60}", proxy: u32) {
        let proxy = Ipv4Addr::from(proxy);
        let expected = ClientAddress::from(IpAddr::V4(proxy));
        prop_assert_eq!(ClientAddress::forwarded(&format!("{made_up}, {proxy}"), 1), Some(expected));
        prop_assert_eq!(ClientAddress::forwarded(&format!("{made_up},for={proxy}"), 1), Some(expected));
    }

    #[test]
    fn S16_any_text_is_read_without_a_panic(text in ".{0,80}", proxies in 0..4_usize) {
        let _ = ClientAddress::parse(&text);
        let _ = ClientAddress::forwarded(&text, proxies);
    }

    #[test]
    fn S16_addresses_are_limited_by_network(a: u128, b: u128, port: u16) {
        let [a, b] = [a, b].map(Ipv6Addr::from_bits);
        let same_network = a.to_bits() >> 64 == b.to_bits() >> 64;
        let is_mapped = a.to_ipv4_mapped().is_some() || b.to_ipv4_mapped().is_some();
        let of = |address: Ipv6Addr| ClientAddress::from(IpAddr::V6(address));
        prop_assert_eq!(of(a) == of(b), same_network && (!is_mapped || a == b));
        prop_assert_eq!(ClientAddress::parse(&a.to_string()), Some(of(a)));
        prop_assert_eq!(ClientAddress::parse(&format!("[{a}%1]:{port}")), Some(of(a)));
    }

    #[test]
    fn S16_ipv4_is_the_same_in_both_notations(v4: u32) {
        let v4 = Ipv4Addr::from(v4);
        let plain = ClientAddress::from(IpAddr::V4(v4));
        prop_assert_eq!(ClientAddress::from(IpAddr::V6(v4.to_ipv6_mapped())), plain);
        prop_assert_eq!(ClientAddress::parse(&format!("::ffff:{v4}")), Some(plain));
    }
}
