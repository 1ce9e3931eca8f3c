-- 1. A DATABASE
-- The extension, the roles of an API, and the role that the application connects as.
create extension anon_auth;
create role app login noinherit;
select auth.create_roles('app');

-- Notes belong to whoever wrote them: the usual row-level security, with auth.uid() from the verified token.
create table notes (
    id      bigint generated always as identity primary key,
    user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
    body    text not null
);
alter table notes enable row level security;
create policy own_notes on notes to authenticated
    using (user_id = auth.uid()) with check (user_id = auth.uid());
grant select, insert on notes to anon, authenticated;

-- The news feed is for everyone who signed in, but guests may only read: a restrictive policy on is_anonymous.
create table news_feed (id bigint generated always as identity primary key, headline text not null);
insert into news_feed (headline) values ('Guests are welcome');
alter table news_feed enable row level security;
create policy read_all on news_feed for select to authenticated using (true);
create policy write_all on news_feed for insert to authenticated with check (true);
create policy no_guests on news_feed as restrictive for insert to authenticated
    with check ((select (auth.jwt()->>'is_anonymous')::boolean) is false);
grant select, insert on news_feed to authenticated;

-- For the demo, a replaced refresh token is tolerated for one second only (the default is ten).
select auth.set_setting('refresh_token_reuse_interval', '1 second');

-- Grace was here once, wrote a note and never came back: we turn her clock back by 100 days.
begin;
select auth.sign_in_anonymously('{"name": "Grace"}')->'user'->>'id' as grace \gset
insert into notes (user_id, body) values (:'grace', 'I was here') returning body;
update auth.users set created_at = now() - interval '100 days' where id = :'grace';
update auth.sessions set refreshed_at = now() - interval '100 days' where user_id = :'grace';
commit;

-- Guests of 90 days who cannot come back may go. A role that is no superuser has pg_cron see to it every
-- minute; we shall look at Grace again at the end.
create extension pg_cron;
create role janitor login in role service_role;
grant usage on schema cron to janitor;
set role janitor;
select auth.schedule_cleanup('* * * * *') as job;
reset role;
select raw_user_meta_data->>'name' as guest, created_at::date, is_anonymous from auth.users;
