-- Guest providers: anonymous sign-in under a name, with limits of its own.

create table auth.guest_providers (
    name text primary key,
    disabled boolean not null default false,
    session_lifetime interval,
    rate_limit integer,
    captcha text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint guest_providers_session_lifetime_check check (session_lifetime between interval '1 second' and interval '36525 days'),
    constraint guest_providers_rate_limit_check check (rate_limit >= 0)
);
comment on table auth.guest_providers is 'Named ways to sign in anonymously; see auth.set_guest_provider()';
comment on column auth.guest_providers.name is 'What callers name it by; provider in raw_app_meta_data of its guests';
comment on column auth.guest_providers.disabled is 'Whether nobody can sign in with it; its guests stay';
comment on column auth.guest_providers.session_lifetime is 'Sessions of its guests end this long after sign-in, at the latest; NULL where only the settings apply';
comment on column auth.guest_providers.rate_limit is 'Guests that a client address can make with it in an hour, counted apart from others; 0 for no limit; NULL as the settings say';
comment on column auth.guest_providers.captcha is 'Captcha that has to be solved, a value of the setting captcha; NULL as that setting says';

create trigger forget_cached after insert or update or delete or truncate on auth.guest_providers
    for each statement execute function auth.forget_cached();
alter table auth.guest_providers enable always trigger forget_cached;

create function auth.set_guest_provider(
    name text,
    disabled boolean default null,
    session_lifetime interval default null,
    rate_limit integer default null,
    captcha text default null
) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_set_guest_provider';
comment on function auth.set_guest_provider(text, boolean, interval, integer, text) is
'Adds a guest provider, for auth.sign_in_anonymously(provider => name), or changes one, and returns it as it is now. What is NULL stays as it is, or in a new provider as the settings say.
Arguments: name, 1 to 63 of a-z, 0-9, "_", "-" and "."; disabled, true to let nobody sign in with it; session_lifetime, how long after sign-in sessions of its guests end at the latest, from 1 second on (the settings session_lifetime and session_idle_timeout apply besides); rate_limit, guests that a client address can make with it in an hour, counted apart from others (0 for no limit), in place of the setting sign_in_rate_limit; captcha, which one has to be solved (off for none), in place of the setting captcha.
Errors: validation_failed (PT400).
Example: select auth.set_guest_provider(''kiosk'', session_lifetime => ''15 minutes'');';

create function auth.remove_guest_provider(name text) returns boolean
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_remove_guest_provider';
comment on function auth.remove_guest_provider(text) is
'Removes a guest provider and returns whether there was one. Its guests and their sessions stay as they are.
Arguments: name, as in auth.guest_providers.
Example: select auth.remove_guest_provider(''kiosk'');';
