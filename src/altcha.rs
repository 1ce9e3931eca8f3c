//! ALTCHA: proof of work instead of a captcha service.

use crate::error::{Error, Result, error};
use crate::jsonb::Jsonb;
use crate::{challenges, clock, keys, settings};
use anon_auth_core::altcha::{self, SolutionError};

/// A challenge, as the ALTCHA widget takes it.
pub fn create() -> Result<Jsonb> {
    let settings = settings::current()?;
    let (key_id, key) = keys::current_refresh()?;
    let expires = clock::unix_seconds(clock::now() + settings.challenge_lifetime);
    Ok(Jsonb(altcha::create(key_id, &key, challenges::database(), settings.altcha_max_number as u32, expires)))
}

/// Verifies a solution, as the widget sends it, and uses up its challenge. Writes, so not on a standby, unless guests are
/// lazy: the tokens that are about to be made are good after a rollback, too.
///
/// # Errors
/// `captcha_failed`, and serialization failures.
pub fn verify(token: &str) -> Result<()> {
    let solution = altcha::decode(token).map_err(failed)?;
    let key = keys::all().refresh(solution.key_id())?.ok_or_else(|| failed(SolutionError::NotOurs))?;
    let (challenge, expires) = solution.verify(&key, challenges::database()).map_err(failed)?;
    let use_up = match settings::current()?.guest_storage {
        "lazy" => challenges::use_up_for_good,
        _ => challenges::use_up,
    };
    match use_up("altcha", challenge, clock::from_unix_seconds(expires)) {
        Err(error) if error.has_code("challenge_expired") => {
            Err(captcha_failed("its challenge was used before or has expired"))
        }
        result => result,
    }
}

fn failed(why: SolutionError) -> Error {
    captcha_failed(why.to_string())
}

fn captcha_failed(why: impl AsRef<str>) -> Error {
    error(400, "captcha_failed", format!("the proof of work is refused: {}", why.as_ref()))
        .hint("Solve a new challenge: SELECT auth.create_challenge('altcha');")
}
