-- Guests that are stored when they first matter, not when they sign in (setting guest_storage).

create table auth.lazy_guests (
    user_id uuid primary key,
    expires_at timestamptz not null
);
create index lazy_guests_expires_at_idx on auth.lazy_guests (expires_at);

comment on table auth.lazy_guests is 'Ids of guests who signed in without being stored, and were stored or signed out since. From then on a token of theirs from before is only as good as the rows in auth.users and auth.sessions: delete a row here, and such a token makes a deleted guest anew';
comment on column auth.lazy_guests.expires_at is 'When the last token from before is over; clean-up deletes the row a day later';

create function auth.ensure_user() returns uuid
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_ensure_user';
comment on function auth.ensure_user() is
'The id of the signed-in user, whose row in auth.users is there from now on: a guest that was not stored at its sign-in (setting guest_storage) is stored. Meant as the default of a column that references auth.users. Never NULL.
Errors: no_authorization (PT401: nobody is signed in), session_not_found, session_expired, user_not_found (PT401), user_banned (PT403), and what the hook after_user_created raises.
Example: create table notes (user_id uuid not null default auth.ensure_user() references auth.users (id), body text);';
