-- Challenges (A3), and proof of work (W6): ALTCHA's challenge is solved here by trying, as a browser does.
\pset format unaligned

-- The solution of a challenge, as the widget sends it.
create function solved(challenge jsonb) returns jsonb language sql as $$
    select challenge - 'maxnumber' || jsonb_build_object('number', n, 'took', 0.5)
      from generate_series(0, (challenge->>'maxnumber')::int) n
     where encode(sha256(convert_to((challenge->>'salt') || n, 'UTF8')), 'hex') = challenge->>'challenge'
$$;
create function sent(solution jsonb) returns text language sql as $$
    select translate(encode(convert_to(solution::text, 'UTF8'), 'base64'), E'\n', '')
$$;
create function sign_in(solution jsonb) returns text language sql as $$
    select raised('select auth.sign_in_anonymously(captcha_token => $1)', sent(solution))
$$;
insert into auth.settings (name, value) values ('altcha_max_number', '50');

-- A3: for whoever asks, also a stranger in a transaction that may not write; good for five minutes; never the same.
begin transaction read only;
set local session authorization plain_login;
select length(c->>'token') as token, c->'expires_in' as expires_in, (c->>'expire_at')::timestamptz - clock_timestamp() between '299 s' and '300 s' as expire_at,
       (c->>'expires_at')::bigint - extract(epoch from clock_timestamp()) between 298 and 300 as expires_at, (select count(*) from jsonb_object_keys(c)) as members
  from auth.create_challenge('device') c;
select count(distinct auth.create_challenge('device')->>'token') as tokens from generate_series(1, 100);
select c->>'algorithm' as algorithm, length(c->>'challenge') as challenge, c->'maxnumber' as maxnumber, c->>'salt' ~ '^[0-9a-f]{32}\?expires=\d+&key=[0-9a-f]{32}&$' as salt,
       length(c->>'signature') as signature, (select count(*) from jsonb_object_keys(c)) as members
  from auth.create_challenge('altcha') c;
select raised('select auth.create_challenge($1)', 'device ') as purpose, raised('select auth.create_challenge(null)') as none;
rollback;

-- W6: off unless set; with it a new guest shows its work.
begin;
select raised('select auth.sign_in_anonymously(captcha_token => ''whatever'')') as off;
select auth.set_setting('captcha', 'altcha') as captcha;
select raised('select auth.sign_in_anonymously()') as nothing, raised('select auth.sign_in_anonymously(captcha_token => ''whatever'')') as whatever;
select solved(auth.create_challenge('altcha')) as solution \gset
select sign_in(:'solution'), (select count(*) from auth.users) as guests;
-- Once: again it is refused, in whatever spelling.
select sign_in(:'solution') as replayed, sign_in(:'solution'::jsonb || '{"took": 7, "more": 1}') as spelled, (select count(*) from auth.users) as guests;
select length(challenge_hash) as hash, expires_at - clock_timestamp() < '5 min' as expires from auth.used_challenges;
select sign_in(solved(auth.create_challenge('altcha'))) as another;
rollback;

-- Altered in any member: refused; nothing is written and nothing used up.
begin;
select auth.set_setting('captcha', 'altcha') as captcha;
select solved(auth.create_challenge('altcha')) as solution \gset
select what, sign_in(:'solution'::jsonb || change) from (values
    ('number', jsonb_build_object('number', (:'solution'::jsonb->'number')::int + 1)),
    ('number as text', jsonb_build_object('number', :'solution'::jsonb->>'number')),
    ('later end', jsonb_build_object('salt', regexp_replace(:'solution'::jsonb->>'salt', 'expires=\d+', 'expires=4000000000'))),
    ('another salt', '{"salt": "00?expires=4000000000&key=00000000000000000000000000000000&"}'),
    ('signature', jsonb_build_object('signature', repeat('0', 64))),
    ('challenge', jsonb_build_object('challenge', encode(sha256('1'), 'hex'))),
    ('SHA-1', '{"algorithm": "SHA-1"}'), ('SHA-512', '{"algorithm": "SHA-512"}')) changes(what, change);
select (select count(*) from auth.users) as guests, (select count(*) from auth.used_challenges) as used;
select sign_in(:'solution') as unaltered;
rollback;

-- N23: expired by the clock, also in a transaction that is older than its challenge's end.
begin;
select auth.set_setting('captcha', 'altcha') as captcha;
select auth.set_setting('challenge_lifetime', '1 s') as challenge_lifetime;
select solved(auth.create_challenge('altcha')) as solution \gset
select pg_sleep(1.1) is null as slept;
select sign_in(:'solution') as expired;
rollback;

-- What is in force for a sign-in that returns a guest: its refresh token is proof enough.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.set_setting('captcha', 'altcha') as captcha, auth.set_setting('sign_in_mode', 'reuse') as sign_in_mode;
select auth.sign_in_anonymously(refresh_token => :'ada_refresh')->'user'->>'id' = :'ada_id' as same_guest;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', 'x') as no_refresh_token, raised('select auth.sign_in_anonymously()') as neither;
rollback;

-- S21: a challenge outlives the rotation of keys, not the revocation of its own.
begin;
select auth.set_setting('captcha', 'altcha') as captcha;
select solved(auth.create_challenge('altcha')) as solution \gset
select auth.rotate_signing_key() is not null as rotated;
savepoint before;
select sign_in(:'solution') as rotated;
rollback to before;
select auth.revoke_signing_key(kid) from auth.signing_keys where purpose = 'refresh_token';
select sign_in(:'solution') as revoked;
rollback;

-- W8: clean-up removes what has expired, and nothing else.
begin;
insert into auth.used_challenges values ('a', clock_timestamp() - interval '1 s'), ('b', clock_timestamp() + interval '1 min');
select auth.cleanup_expired_users()->'challenges' as challenges;
select convert_from(challenge_hash, 'UTF8') as hash from auth.used_challenges;
select count(*) as audited from auth.audit_log_entries where action = 'cleanup';
rollback;

-- N10: a client reads and writes none of this.
begin;
set local session authorization plain_login;
select raised('select * from auth.used_challenges') as used, raised('delete from auth.used_challenges') as delete, raised('select * from auth.device_keys') as keys;
rollback;
select default_settings();
drop function sign_in, sent, solved;
