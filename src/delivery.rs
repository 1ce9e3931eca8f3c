//! Stand-in.
use crate::error::Result;
use crate::spi::{self, Statement};
use crate::users::User;
use pgrx::{JsonB, pg_sys};
pub enum Channel {
    Email,
    Sms,
}
pub struct Message<'a> {
    pub channel: Channel,
    pub user: &'a User,
    pub to: &'a str,
    pub code: &'a str,
    pub token_hash: &'a str,
    pub purpose: &'a str,
}
pub fn send(message: &Message) -> Result<()> {
    static INSERT: Statement = Statement::new(c"insert into public.messages values ($1)", &[pg_sys::JSONBOID]);
    let _ = message.user.id;
    INSERT
        .run(&[spi::value(JsonB(
            serde_json::json!({"at": crate::json::timestamp(crate::clock::now()), "channel": match message.channel { Channel::Email => "email", Channel::Sms => "sms"},
        "to": message.to, "code": message.code, "token_hash": message.token_hash, "purpose": message.purpose}),
        ))])
        .map(|_| ())
}
