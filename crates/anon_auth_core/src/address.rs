//! E-mail addresses and phone numbers, in the one form in which they are compared and stored.

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// An address as a mail server takes it has at most this many bytes (RFC 5321, section 4.5.3.1.3, less the angle
/// brackets).
const MAX_EMAIL_BYTES: usize = 254;

/// Bytes of its local part (RFC 5321, section 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;

/// Digits of a phone number, its country code included (E.164). The shortest in use have seven.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// An e-mail address in its one form: without white space around it, in lower case, the local part in Unicode's
/// normalisation form C, the domain in ASCII (IDNA 2008, processed as UTS 46 says).
///
/// Dots and what follows a plus sign stay: to most providers they make another address. Taken are addresses of
/// RFC 5321 and 6531 that mail can be sent to over the internet: not those with a quoted local part, a comment, a
/// display name or an address literal, nor a domain of one label. Nor one that holds `=?`: in a mail's header that begins
/// an encoded word (RFC 2047), and mail programs send to what it decodes to.
///
/// # Errors
/// [`Malformed`] for everything else.
pub fn email(text: &str) -> Result<String, Malformed> {
    let text = text.trim();
    // Before anything costs time. Composed and in ASCII it may be shorter, but not ten times.
    if text.len() > 10 * MAX_EMAIL_BYTES {
        return Err(Malformed("it is too long"));
    }
    let (local, domain) = text.rsplit_once('@').ok_or(Malformed("it has no @"))?;
    if !local.chars().all(is_visible) || !domain.chars().all(|c| is_visible(c) || is_joiner(c)) {
        return Err(Malformed("it holds a space or an invisible character"));
    }
    let address = format!("{}@{}", local_part(local)?, domain_name(domain)?);
    match address.len() {
        ..=MAX_EMAIL_BYTES => Ok(address),
        _ => Err(Malformed("it is too long")),
    }
}

/// `Dot-string` of RFC 5321, section 4.1.2, with the letters of RFC 6531.
fn local_part(text: &str) -> Result<String, Malformed> {
    let text: String = text.nfc().collect::<String>().to_lowercase().nfc().collect();
    if text.is_empty() {
        return Err(Malformed("there is nothing before the @"));
    }
    if text.len() > MAX_LOCAL_BYTES {
        return Err(Malformed("it has more than 64 bytes before the @"));
    }
    if text.split('.').any(str::is_empty) {
        return Err(Malformed("before the @ it begins or ends with a dot, or has two in a row"));
    }
    if text.contains("=?") {
        return Err(Malformed("it holds =?, which mail programs decode to another address"));
    }
    let needs_quotes = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"!#$%&'*+-/=?^_`{|}~.".contains(c);
    if text.contains(needs_quotes) {
        return Err(Malformed("it holds a character before the @ that is not taken there"));
    }
    Ok(text)
}

fn domain_name(text: &str) -> Result<String, Malformed> {
    let name = idna::domain_to_ascii_strict(text).map_err(|_| Malformed("its domain is not a name of the DNS"))?;
    let (_, last) = name.rsplit_once('.').ok_or(Malformed("its domain has no dot"))?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed("its domain is not a name of the DNS"));
    }
    Ok(name)
}

/// Whether a reader can see it: no white space, no control or formatting character (such as those that change the
/// direction of the text), nothing that Unicode has not assigned, nor any other that it says to be shown as nothing
/// (`Default_Ignorable_Code_Point`: fillers, joiners of graphemes, selectors of variants).
fn is_visible(character: char) -> bool {
    let group = character.general_category_group();
    !matches!(group, GeneralCategoryGroup::Separator | GeneralCategoryGroup::Other)
        && !matches!(
            character,
            '\u{34f}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{ffa0}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Some scripts need them in names; IDNA says where, and does not take them elsewhere.
fn is_joiner(character: char) -> bool {
    matches!(character, '\u{200c}' | '\u{200d}')
}

/// A phone number in its one form (E.164): `+`, the country code, the number, at most 15 digits in all. Spaces,
/// hyphens, dots and parentheses between digits are dropped.
///
/// # Errors
/// [`Malformed`] for everything else; also for a number without `+`, since only its dialler knows its country.
pub fn phone(text: &str) -> Result<String, Malformed> {
    let text = text.trim();
    if text.len() > 64 {
        return Err(Malformed("it is too long"));
    }
    let number = text.strip_prefix('+').ok_or(Malformed("it does not begin with + and a country code"))?;
    if number.contains("(0)") {
        return Err(Malformed("it holds the (0) that is dialled within the country only"));
    }
    let digits: String = number.chars().filter(|c| !matches!(c, ' ' | '\u{a0}' | '-' | '.' | '(' | ')')).collect();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed("it holds something that is not a digit"));
    }
    if digits.starts_with('0') {
        return Err(Malformed("no country code begins with 0"));
    }
    if !PHONE_DIGITS.contains(&digits.len()) {
        return Err(Malformed("it does not have 7 to 15 digits"));
    }
    Ok(format!("+{digits}"))
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}
