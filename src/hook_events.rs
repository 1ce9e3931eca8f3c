//! The hooks of signing in: a user's creation and promotion, and the claims of an access token.

use crate::error::Result;
use crate::hooks::{self, Hook};
use crate::users::{self, User};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Claims that a hook cannot change: the database checks them when the token comes back (`iss`, `aud`, `exp`,
/// `iat`, `nbf`), finds user and session by them (`sub`, `session_id`, `session_rotation`) or knows that there are
/// none yet (`lazy`), puts its own in their place (`is_anonymous`, `email`, `phone`), or they say how the user signed
/// in (`aal`, `amr`).
///
/// All others are the hook's, as is customary: `role` (it decides what `auth.authenticate()` becomes, which
/// still takes a membership of the login role), `app_metadata` and `user_metadata`, and any new claim.
const FIXED: [&str; 14] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "session_id",
    "session_rotation",
    "lazy",
    "is_anonymous",
    "email",
    "phone",
    "aal",
    "amr",
];

/// Lets the hook `custom_access_token` put together the claims of an access token.
///
/// # Arguments
/// * `method` – how the token is come by: a sign-in's method, or `token_refresh`
///
/// # Errors
/// Those of [`hooks::run`]; `hook_failed` also where a claim that it cannot change has another value, or the role
/// or the metadata are not of their type.
pub fn custom_access_token(claims: &mut Map<String, Value>, method: &str) -> Result<()> {
    const HOOK: Hook = Hook::CustomAccessToken;
    if !hooks::is_set(HOOK) {
        return Ok(());
    }
    let event = json!({"user_id": claims["sub"], "claims": claims, "authentication_method": method});
    let Some(mut answer) = hooks::run(HOOK, event)? else { return Ok(()) };
    let Some(Value::Object(mut custom)) = answer.get_mut("claims").map(Value::take) else {
        return Err(hooks::failed(HOOK, "answered without an object \"claims\""));
    };
    for name in FIXED {
        match (custom.get(name), claims.get(name)) {
            (Some(theirs), ours) if Some(theirs) != ours => {
                return Err(hooks::failed(HOOK, &format!("changed the claim \"{name}\", which is fixed")));
            }
            // Left out, as a hook that makes tokens short does: it is needed all the same. All but `amr`.
            (None, Some(ours)) if name != "amr" => {
                custom.insert(name.into(), ours.clone());
            }
            _ => (),
        }
    }
    if custom.get("role").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(hooks::failed(HOOK, "answered with a \"role\" that is not a text"));
    }
    for name in ["app_metadata", "user_metadata"] {
        if custom.get(name).is_some_and(|metadata| !metadata.is_object()) {
            return Err(hooks::failed(HOOK, &format!("answered with \"{name}\" that is not an object")));
        }
    }
    *claims = custom;
    Ok(())
}

/// Lets the hook `before_user_created` refuse a new user, or add to its metadata: members of `user_metadata` and
/// `app_metadata` in the `user` of its answer are added, or take the place of those of the same name.
///
/// # Arguments
/// * `provider` – what the user signs in with: `anonymous`, or the name of a guest's or an identity's provider
/// * `captcha_token` – what the caller presented as such
///
/// Returns whether it added anything.
///
/// # Errors
/// Those of [`hooks::run`]; `hook_failed` also where metadata are not objects.
pub fn before_user_created(user: &mut User, provider: &str, captcha_token: Option<&str>) -> Result<bool> {
    const HOOK: Hook = Hook::BeforeUserCreated;
    if !hooks::is_set(HOOK) {
        return Ok(false);
    }
    let event = json!({"user": user.to_json(json!([])), "provider": provider, "captcha_token": captcha_token});
    let Some(mut answer) = hooks::run(HOOK, event)? else { return Ok(false) };
    let mut added = false;
    for (name, metadata) in [("user_metadata", &mut user.user_metadata), ("app_metadata", &mut user.app_metadata)] {
        match answer.pointer_mut(&format!("/user/{name}")).map(Value::take) {
            None => (),
            Some(Value::Object(more)) => {
                added |= !more.is_empty();
                more.into_iter().for_each(|(key, value)| metadata[key.as_str()] = value);
            }
            Some(_) => return Err(hooks::failed(HOOK, &format!("answered with \"{name}\" that is not an object"))),
        }
    }
    Ok(added)
}

/// Calls the hook `after_user_created`; the user's row is there.
///
/// # Errors
/// Those of [`hooks::run`].
pub fn after_user_created(user: &User, provider: &str) -> Result<()> {
    if hooks::is_set(Hook::AfterUserCreated) {
        let event = json!({"user": user.to_json(json!([])), "provider": provider});
        hooks::run(Hook::AfterUserCreated, event)?;
    }
    Ok(())
}

/// Calls the hook `user_promoted`; the guest is a permanent user already, and its row is locked.
///
/// # Arguments
/// * `provider` – what it is linked to: `email`, `phone`, or the name of an identity's provider
///
/// # Errors
/// Those of [`hooks::run`].
pub fn user_promoted(user: Uuid, provider: &str) -> Result<()> {
    if hooks::is_set(Hook::UserPromoted)
        && let Some(user) = users::find(user)?
    {
        let event = json!({"user": user.to_json(users::identities(user.id)?), "provider": provider});
        hooks::run(Hook::UserPromoted, event)?;
    }
    Ok(())
}
