//! What values a setting can have, and the one form in which each is stored.

use crate::error::{Result, invalid};
use anon_auth_core::algorithm::Algorithm;
use pgrx::pg_sys;
use std::ffi::CString;

pub const SECOND: i64 = 1_000_000;
pub const DAY: i64 = 86_400 * SECOND;
/// Longer than anything meant seriously, and far from overflowing a timestamp.
pub const LONGEST: i64 = 36_525 * DAY;

/// What values a setting takes.
pub enum Kind {
    Boolean,
    Word(&'static [&'static str]),
    Text,
    /// Microseconds, at least and at most.
    Interval(i64, i64),
    /// Bytes, at least and at most.
    Bytes(i64, i64),
    /// KiB, at least and at most.
    Kibibytes(i64, i64),
    /// A number, at least and at most.
    Count(i64, i64),
}

/// A setting: what there is to know of it but its value.
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub description: &'static str,
}

/// The type in which the code has a setting.
pub trait Value: Sized {
    /// # Arguments
    /// * `text` – in the form in which it is stored
    fn read(text: &str, kind: &Kind) -> Result<Self>;
}

impl Value for bool {
    fn read(text: &str, _: &Kind) -> Result<Self> {
        Ok(text == "true")
    }
}

impl Value for i64 {
    fn read(text: &str, kind: &Kind) -> Result<Self> {
        match kind {
            Kind::Interval(..) => interval_microseconds(text),
            _ => text.parse().map_err(|_| invalid(format!("\"{text}\" is not a number"))),
        }
    }
}

impl Value for String {
    fn read(text: &str, _: &Kind) -> Result<Self> {
        Ok(text.to_owned())
    }
}

/// One of the words that are allowed.
impl Value for &'static str {
    fn read(text: &str, kind: &Kind) -> Result<Self> {
        let words = if let Kind::Word(words) = kind { *words } else { &[] };
        let word = words.iter().find(|word| **word == text);
        word.copied().ok_or_else(|| invalid(format!("\"{text}\" is not one of {}", words.join(", "))))
    }
}

impl Value for Algorithm {
    fn read(text: &str, _: &Kind) -> Result<Self> {
        Ok(text.parse()?)
    }
}

impl Definition {
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Boolean => "boolean",
            Kind::Word(_) => "enum",
            Kind::Text => "string",
            Kind::Interval(..) => "interval",
            Kind::Bytes(..) | Kind::Kibibytes(..) | Kind::Count(..) => "integer",
        }
    }

    pub fn unit(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Bytes(..) => Some("B"),
            Kind::Kibibytes(..) => Some("kB"),
            _ => None,
        }
    }

    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Boolean => "true, false".into(),
            Kind::Word(words) => words.join(", "),
            Kind::Text => "any text of 1 to 1024 bytes".into(),
            Kind::Interval(least, most) => {
                format!("{} to {} (a month counts as 30 days)", interval_text(least), interval_text(most))
            }
            Kind::Bytes(least, most) | Kind::Kibibytes(least, most) | Kind::Count(least, most) => {
                format!("{least} to {most}")
            }
        }
    }

    /// The value in the one form in which it is stored.
    pub fn canonical(&self, value: &str) -> Result<String> {
        let refused = || {
            let shown: String = value.chars().take(60).collect();
            let dots = if shown.len() < value.len() { "…" } else { "" };
            invalid(format!("\"{shown}{dots}\" is not a value for setting \"{}\"", self.name))
                .hint(format!("Allowed: {}.", self.allowed()))
        };
        let value = value.trim();
        match self.kind {
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => Ok("true".into()),
                "false" | "off" | "no" | "0" => Ok("false".into()),
                _ => Err(refused()),
            },
            Kind::Word(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(value))
                .map(|word| word.to_string())
                .ok_or_else(refused),
            Kind::Text if value.is_empty() || value.len() > 1024 => Err(refused()),
            Kind::Text => Ok(value.to_owned()),
            Kind::Interval(least, most) => match interval_microseconds(value) {
                Ok(length) if (least..=most).contains(&length) => Ok(interval_text(length)),
                Ok(_) => Err(refused()),
                Err(error) => {
                    error.discard();
                    Err(refused())
                }
            },
            Kind::Bytes(least, most) | Kind::Kibibytes(least, most) | Kind::Count(least, most) => {
                match value.parse::<i64>() {
                    Ok(number) if (least..=most).contains(&number) => Ok(number.to_string()),
                    _ => Err(refused()),
                }
            }
        }
    }
}

/// Length of an interval in microseconds; a month counts as 30 days.
///
/// # Errors
/// When Postgres does not take the text for an interval, or it is beyond any sense.
fn interval_microseconds(text: &str) -> Result<i64> {
    let refused = || invalid(format!("\"{text}\" is not an interval"));
    let text = CString::new(text).map_err(|_| refused())?;
    // interval_in raises on bad input; only that is caught.
    let parsed = pgrx::PgTryBuilder::new(|| unsafe {
        let datum = pgrx::direct_function_call_as_datum(
            pg_sys::interval_in,
            &[
                Some(pg_sys::Datum::from(text.as_ptr())),
                Some(pg_sys::Datum::from(pg_sys::InvalidOid)),
                Some(pg_sys::Datum::from(-1i32)),
            ],
        )?;
        let interval = &*(datum.cast_mut_ptr::<pg_sys::Interval>());
        Some((interval.month, interval.day, interval.time))
    })
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT, |_| None)
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| None)
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_INTERVAL_FIELD_OVERFLOW, |_| None)
    .execute();
    let (months, days, time) = parsed.ok_or_else(refused)?;
    let days = i64::from(months) * 30 + i64::from(days);
    days.checked_mul(DAY).and_then(|days| days.checked_add(time)).ok_or_else(refused)
}

/// The interval as Postgres shows it by default. Not `interval_out`, whose form depends on IntervalStyle.
fn interval_text(microseconds: i64) -> String {
    let (days, time) = (microseconds / DAY, microseconds % DAY);
    let (seconds, fraction) = (time / SECOND, time % SECOND);
    let mut text = match days {
        0 => String::new(),
        1 => "1 day".into(),
        _ => format!("{days} days"),
    };
    if time != 0 || days == 0 {
        let gap = if days == 0 { "" } else { " " };
        text += &format!("{gap}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }
    if fraction != 0 {
        text += format!(".{fraction:06}").trim_end_matches('0');
    }
    text
}
