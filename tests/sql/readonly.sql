-- A read-only transaction: what reads works, what would write says so clearly, and nothing takes a transaction id.
\pset format unaligned
select * from session(auth.sign_in_anonymously()) \gset ada_

-- Readers and what they rest on.
begin transaction read only;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user;
select auth.uid() = :'ada_id' as uid, auth.role(), auth.email(), auth.is_anonymous(), auth.session_id() = :'ada_session' as session_id, auth.jwt() is not null as jwt;
select auth.verify_token(:'ada_token') is not null as verified, auth.get_user()->>'id' = :'ada_id' as get_user, auth.user_info()->>'sub' = :'ada_id' as user_info;
select auth.jwks() is not null as jwks, auth.pre_request();
reset role;
select auth.setting('disabled'), auth.export_provider();
select count(*) > 10 as settings from auth.all_settings;
select count(*) as customizations from auth.customizations;
select pg_current_xact_id_if_assigned() as no_transaction_id;
commit;

-- What writes.
begin transaction read only;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select raised('select auth.sign_in_anonymously()');
select raised('select auth.refresh_session($1)', :'ada_refresh');
select raised('select auth.refresh_session(''garbage'')');
select raised('select auth.sign_out()');
select raised('select auth.delete_user()');
reset role;
select raised('select auth.set_setting(''disabled'', ''true'')');
select raised('select auth.import_provider(''{"name": "anon-user", "type": "anon-user", "disabled": false}'')');
select raised('select auth.create_signing_key()');
select raised('select auth.rotate_signing_key()');
select raised('select auth.import_signing_key(''{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}'')');
select raised('select auth.revoke_signing_key(''x'')');
select raised('select auth.cleanup_expired_users()');
select raised('select auth.cleanup_expired_users(dry_run => true)');
select pg_current_xact_id_if_assigned() is null as no_transaction_id;
rollback;

-- Readers take no transaction id in a transaction that could have one.
begin;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as uid, auth.jwt() is not null as jwt;
select auth.get_user() is not null as get_user, auth.verify_token(:'ada_token') is not null as verified;
select pg_current_xact_id_if_assigned() as no_transaction_id;
commit;

-- REPEATABLE READ and SERIALIZABLE: the same.
begin isolation level repeatable read, read only;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as uid;
commit;
begin isolation level serializable, read only, deferrable;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as uid;
commit;

-- S4: in a parallel worker too, with the same answer: 10,000 rows counted by workers, each asking on every row.
begin;
create table rows as select case when n % 2 = 0 then :'ada_id'::uuid end as user_id from generate_series(1, 10000) n;
analyze rows;
grant select on rows to authenticated;
create function plan_of(statement text) returns text language plpgsql as $$
declare
    plan json;
begin
    execute 'explain (format json) ' || statement into plan;
    return plan;
end
$$;
set local min_parallel_table_scan_size = 0;
set local parallel_setup_cost = 0;
set local parallel_tuple_cost = 0;
set local max_parallel_workers_per_gather = 2;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select plan_of('select count(*) from rows where user_id = auth.uid()') like '%"Gather"%' as parallel;
select count(*) from rows where user_id = auth.uid() and auth.is_anonymous() and auth.jwt()->>'sub' = auth.uid()::text;
set local parallel_leader_participation = off;
select count(*) from rows where user_id = auth.uid();
select set_config('anon_auth.access_token', '', true);
select count(*) as without_token from rows where user_id = auth.uid();
rollback;

delete from auth.users;
