//! The two users of a merge: locked, made one, and the ways by which the guest could come back.

use super::contention::with_short_waits;
use super::report::Side;
use crate::error::{Result, error};
use crate::hooks::{self, Hook};
use crate::settings::Settings;
use crate::spi::{self, Statement};
use crate::{claims, sessions, users};
use pgrx::pg_sys;
use serde_json::{Value, json};
use std::cell::Cell;
use uuid::Uuid;

/// The two users.
pub struct Pair {
    pub guest: Uuid,
    pub account: Uuid,
    /// Which of them the next attempt locks first.
    first: Cell<Uuid>,
}

impl Pair {
    pub fn new(guest: Uuid, account: Uuid) -> Self {
        Self { guest, account, first: Cell::new(guest.min(account)) }
    }

    /// Locks both users, and asks again who they are, now that nobody can change it.
    pub fn lock(&self, token: &str) -> Result<()> {
        // The first is waited for with nothing in hand. Who holds the other may be about to wait for the first, so that
        // one is waited for shortly, and is the first of the next attempt.
        let first = self.first.get();
        let other = if first == self.guest { self.account } else { self.guest };
        users::lock_for_deletion(first)?;
        self.first.set(other);
        with_short_waits(|| users::lock_for_deletion(other))?;
        self.first.set(first);
        sessions::lock_all(self.guest)?;
        let (account, _) = claims::require()?;
        let guest = sessions::bearer(token)?;
        if (guest, account) != (self.guest, self.account) {
            return Err(error(409, "conflict", "somebody else signed in meanwhile"));
        }
        if users::find(account)?.is_none() {
            return Err(error(401, "user_not_found", "the user of the access token does not exist any more"));
        }
        if !users::find(guest)?.is_some_and(|guest| guest.is_anonymous) {
            return Err(error(403, "not_anonymous", "only a guest can be merged into another account")
                .hint("The token passed belongs to a permanent user."));
        }
        Ok(())
    }

    /// What both hooks are told, where one is set: the two users as they were before.
    pub fn event(&self, preferred: Side, dry_run: bool) -> Result<Option<Value>> {
        if !hooks::is_set(Hook::BeforeMerge) && !hooks::is_set(Hook::UserMerged) {
            return Ok(None);
        }
        let user = |id| -> Result<Value> {
            let user = users::find(id)?.ok_or_else(claims::not_signed_in)?;
            Ok(user.to_json(users::identities(id)?))
        };
        let on_conflict = preferred.name();
        let event = json!({"guest": user(self.guest)?, "user": user(self.account)?, "on_conflict": on_conflict, "dry_run": dry_run});
        Ok(Some(event))
    }

    /// Metadata and identities of the guest become the account's. Returns what became of the identities.
    pub fn take_over(&self, preferred: Side, settings: &Settings) -> Result<Value> {
        // App metadata is the administrators', and stays.
        static METADATA: Statement = Statement::new(
            c"update auth.users a
              set raw_user_meta_data = m.merged, updated_at = pg_catalog.clock_timestamp()
              from (select case when pg_catalog.octet_length(m.united::text) <= $4 then m.united
                                when $3 then g.raw_user_meta_data else o.raw_user_meta_data end as merged
                    from auth.users g
                    join auth.users o on o.id = $2
                    cross join lateral (
                        select case when $3 then o.raw_user_meta_data || g.raw_user_meta_data
                                    else g.raw_user_meta_data || o.raw_user_meta_data end as united) m
                    where g.id = $1) m
              where a.id = $2 and a.raw_user_meta_data <> m.merged",
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::BOOLOID, pg_sys::INT8OID],
        );
        static IDENTITIES: Statement = Statement::new(
            c"update auth.identities i
              set user_id = $2, updated_at = pg_catalog.clock_timestamp()
              where i.user_id = $1
                and not exists (select from auth.identities o where o.user_id = $2 and o.provider = i.provider)",
            &[pg_sys::UUIDOID, pg_sys::UUIDOID],
        );
        static LEFT: Statement =
            Statement::new(c"select from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
        let users = [spi::uuid(self.guest), spi::uuid(self.account)];
        METADATA.run(&[
            users[0],
            users[1],
            spi::value(preferred == Side::Guest),
            spi::value(settings.user_metadata_limit),
        ])?;
        let moved = IDENTITIES.run(&users)?;
        Ok(json!({"moved": moved, "dropped": LEFT.run(&users[..1])?}))
    }

    /// Ends every way by which a guest that is kept could come back.
    pub fn end_access(&self) -> Result<()> {
        static SESSIONS: Statement =
            Statement::new(c"delete from auth.sessions where user_id = $1", &[pg_sys::UUIDOID]);
        static CODES: Statement =
            Statement::new(c"delete from auth.one_time_tokens where user_id = $1", &[pg_sys::UUIDOID]);
        static KEYS: Statement =
            Statement::new(c"delete from auth.device_keys where user_id = $1", &[pg_sys::UUIDOID]);
        static IDENTITIES: Statement =
            Statement::new(c"delete from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
        static MESSAGES: Statement =
            Statement::new(c"delete from auth.messages where user_id = $1", &[pg_sys::UUIDOID]);
        for statement in [&SESSIONS, &CODES, &KEYS, &IDENTITIES, &MESSAGES] {
            statement.run(&[spi::uuid(self.guest)])?;
        }
        Ok(())
    }
}
