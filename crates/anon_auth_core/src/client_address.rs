//! Where a client is, as far as limits on attempts tell clients apart.
//!
//! An IPv4 address stands for itself, also where it is written as an IPv6 one (`::ffff:192.0.2.1`, RFC 4291,
//! section 2.5.5.2). Of an IPv6 address the first 64 bits count: the rest a client chooses itself (RFC 4291,
//! section 2.5.4).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A client's address, normalised: two that are equal are limited together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(Option<IpAddr>);

impl ClientAddress {
    /// A client on the server's own machine, connected through a socket that has no address.
    pub const LOCAL: Self = Self(None);

    /// Reads one address as proxies write it: with or without a port, brackets, quotes, a zone.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t']);
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let is_sound = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return if is_sound { parse_v6(address) } else { None };
        }
        match text.split_once(':') {
            Some((address, port)) if is_port(port) => parse_v4(address),
            Some(_) => parse_v6(text),
            None => parse_v4(text),
        }
    }

    /// The client that a header such as `X-Forwarded-For`, `X-Real-IP` or `Forwarded` (RFC 7239) names.
    ///
    /// # Arguments
    /// * `value` – the header's value
    /// * `proxies` – how many trusted proxies stand in front, each of which appends where it got the request
    ///   from; what is left of theirs, the client may have made up
    ///
    /// `None` where the value is not what that many proxies would have made.
    pub fn forwarded(value: &str, proxies: usize) -> Option<Self> {
        // From the right, and blind to quotes: nothing on the left can move what the proxies appended.
        let appended: Vec<&str> = value.rsplit(',').take(proxies).collect();
        // A proxy may quote what the client said of itself, a host with commas say: then these are not its elements.
        if appended.len() < proxies || !appended.iter().all(|element| closes_its_quotes(element)) {
            return None;
        }
        let element = *appended.last()?;
        if !element.contains('=') {
            return Self::parse(element);
        }
        let mut addresses = element.split(';').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim_matches([' ', '\t']).eq_ignore_ascii_case("for").then_some(value)
        });
        let address = addresses.next()?;
        if addresses.next().is_some() { None } else { Self::parse(address) }
    }

    /// The whole address, for others who are to be told where a client is; `None` where only a part of it is known.
    pub fn exact(&self) -> Option<IpAddr> {
        self.0.filter(IpAddr::is_ipv4)
    }

    fn new(address: IpAddr) -> Self {
        Self(Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => IpAddr::V4(v4),
                None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
            },
        }))
    }
}

/// Whether no quoted string (RFC 9110, section 5.6.4) begins before this text or ends behind it.
fn closes_its_quotes(text: &str) -> bool {
    let mut is_escaped = false;
    let quotes = text.bytes().filter(|byte| {
        let is_quote = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_quote
    });
    quotes.count() % 2 == 0
}

fn parse_v4(text: &str) -> Option<ClientAddress> {
    Some(ClientAddress::new(IpAddr::V4(text.parse().ok()?)))
}

fn parse_v6(text: &str) -> Option<ClientAddress> {
    let address = match text.split_once('%') {
        Some((_, "")) => return None,
        Some((address, _zone)) => address,
        None => text,
    };
    Some(ClientAddress::new(IpAddr::V6(address.parse().ok()?)))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        Self::new(address)
    }
}

/// `192.0.2.1`, `2001:db8:0:1::/64` or `local`.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("local"),
            Some(IpAddr::V4(v4)) => v4.fmt(f),
            Some(IpAddr::V6(v6)) => write!(f, "{v6}/64"),
        }
    }
}
