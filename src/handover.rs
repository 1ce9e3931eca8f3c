//! Carrying a guest elsewhere: to another browser, where it becomes permanent (promotion code), or to a second
//! device (transfer code).

use crate::error::{Result, error};
use crate::function::{Args, writes};
use crate::guesses::{self, Subject};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::one_time_tokens::{self, Purpose, otp_expired};
use crate::{client_address, clock, device_keys, linking, postgrest, sessions, settings, sql_function, users};
use anon_auth_core::code;
use serde_json::json;

fn create(purpose: Purpose, code: &str) -> Result<Jsonb> {
    let (user, _) = linking::lock_caller()?;
    if !user.is_anonymous {
        return Err(error(403, "not_anonymous", "only a guest can be carried elsewhere by a code")
            .hint("A permanent user signs in there."));
    }
    let lifetime = settings::current()?.handover_code_lifetime;
    let expires_at = one_time_tokens::create(user.id, purpose, code, lifetime)?;
    postgrest::forbid_caching()?;
    Ok(Jsonb(json!({
        purpose.name(): code,
        "expires_in": lifetime / 1_000_000,
        "expires_at": clock::unix_seconds(expires_at),
    })))
}

fn redeem(purpose: Purpose, code: &str) -> Result<Jsonb> {
    let token = one_time_tokens::lock_user_of(purpose, code, |token| users::lock(token.user))?;
    let user = linking::lock(token.user)?;
    if !user.is_anonymous {
        return Err(otp_expired());
    }
    token.delete()?;
    sessions::create(user.id, purpose.name())
}

fn create_promotion_code(_: &Args) -> Result<Jsonb> {
    writes(c"auth.create_promotion_code()");
    linking::check_enabled()?;
    create(Purpose::Promotion, &code::link_token())
}
sql_function!(anon_auth_create_promotion_code, create_promotion_code);

/// Not counted as a guess: nobody guesses 256 bits.
fn redeem_promotion_code(args: &Args) -> Result<Jsonb> {
    writes(c"auth.redeem_promotion_code()");
    limits::take(Call::Verify)?;
    linking::check_enabled()?;
    let code = args.text(0)?.unwrap_or_default();
    // What a device key signs has dots, a code has none.
    if code.contains('.') { device_keys::sign_in_to_promote(&code) } else { redeem(Purpose::Promotion, &code) }
}
sql_function!(anon_auth_redeem_promotion_code, redeem_promotion_code);

fn create_transfer_code(_: &Args) -> Result<Jsonb> {
    writes(c"auth.create_transfer_code()");
    create(Purpose::Transfer, &code::typed())
}
sql_function!(anon_auth_create_transfer_code, create_transfer_code);

fn redeem_transfer_code(args: &Args) -> Result<Jsonb> {
    writes(c"auth.redeem_transfer_code()");
    limits::take(Call::Verify)?;
    let code = code::read_typed(&args.text(0)?.unwrap_or_default()).ok_or_else(otp_expired)?;
    // By the first half, of which there are 33 million: one who guesses shall not lock out who has a code.
    guesses::count(&Subject::code(Purpose::Transfer.name(), &code[..5]), &client_address::current()?)?;
    redeem(Purpose::Transfer, &code)
}
sql_function!(anon_auth_redeem_transfer_code, redeem_transfer_code);
