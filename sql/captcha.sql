-- Captcha services, and what they have to say of a token for its bearer to become a guest.

create table auth.captcha_services (
    name text primary key,
    secret bytea not null,
    sealed boolean not null,
    sitekey text,
    url text,
    hostnames text[] not null default '{}',
    action text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table auth.captcha_services is 'Captcha services that can be asked; see auth.set_captcha(). Which one is asked is the setting captcha.';
comment on column auth.captcha_services.name is 'turnstile or hcaptcha';
comment on column auth.captcha_services.secret is 'Your secret at the service; encrypted where sealed';
comment on column auth.captcha_services.sealed is 'Whether secret is encrypted with the key in anon_auth.key_file (AES-256-GCM-SIV, RFC 8452)';
comment on column auth.captcha_services.sitekey is 'Site that tokens have to be from, which hCaptcha then checks; NULL for any of yours';
comment on column auth.captcha_services.url is 'Where tokens are verified; NULL for the service''s own address';
comment on column auth.captcha_services.hostnames is 'Host names of sites on which tokens may have been made; empty for any';
comment on column auth.captcha_services.action is 'Action that tokens have to be made for (Turnstile); NULL for any';

create trigger forget_cached after insert or update or delete or truncate on auth.captcha_services
    for each statement execute function auth.forget_cached();
alter table auth.captcha_services enable always trigger forget_cached;

create function auth.set_captcha(
    service text,
    secret text default null,
    sitekey text default null,
    url text default null,
    hostnames text[] default null,
    action text default null
) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_set_captcha';
comment on function auth.set_captcha(text, text, text, text, text[], text) is
'Says how a captcha service is asked, and returns it as it is now, without the secret. What is NULL stays as it is. To have it asked, set the setting captcha.
Arguments: service, turnstile or hcaptcha; secret, yours at the service, passed as a bound parameter and stored as private keys are; sitekey, the site that tokens have to be from (hCaptcha); url, where tokens are verified instead of at the service itself: https, or http for a loopback address if a superuser says so; the secret has to be given with it; hostnames, of the sites on which tokens may have been made; action, for which they have to be made (Turnstile). An empty sitekey, url, hostnames or action stands for none.
Errors: validation_failed (PT400: never shows the secret), signing_key_unavailable (PT500: anon_auth.key_file cannot be read).
Example: select auth.set_captcha(''turnstile'', $1, hostnames => array[''www.example.com'']);';

create function auth.remove_captcha(service text) returns boolean
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_remove_captcha';
comment on function auth.remove_captcha(text) is
'Forgets a captcha service and its secret, and returns whether there was one. While the setting captcha names it, nobody can sign in anonymously.
Arguments: service, as in auth.captcha_services.
Example: select auth.remove_captcha(''turnstile'');';
