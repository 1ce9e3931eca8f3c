-- The provider of guests: switched on and off, imported and exported (R6, R7).
\pset format unaligned

-- R6: it is on by default; off, it rejects sign-in at once, and creates nobody.
begin;
select auth.setting('disabled');
select auth.sign_in_anonymously() is not null as signed_in;
select auth.set_setting('disabled', 'true');
select raised('select auth.sign_in_anonymously()');
select count(*) as guests from auth.users;
-- On again.
select auth.set_setting('disabled', 'false');
select auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- R6: guests who are there stay: only new ones are refused.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.set_setting('disabled', 'on');
select auth.refresh_session(:'ada_refresh')->'user'->>'id' = :'ada_id' as refreshed;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
rollback;

-- R6: nor does mode "reuse" let anyone in.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.set_setting('sign_in_mode', 'reuse'), auth.set_setting('disabled', 'true');
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh');
rollback;

-- R7: the provider file of Realm goes in and comes out.
begin;
select auth.export_provider();
select auth.import_provider('{"name": "anon-user", "type": "anon-user", "disabled": true}');
select auth.export_provider() = '{"name": "anon-user", "type": "anon-user", "disabled": true}' as exported_as_imported;
select raised('select auth.sign_in_anonymously()');
select auth.import_provider(auth.export_provider() || '{"disabled": false}');
select auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- R7: any other key is rejected with its name, and nothing changes.
begin;
select raised('select auth.import_provider($1::jsonb)',
              '{"name": "anon-user", "type": "anon-user", "disabled": true, "config": {}}');
select raised('select auth.import_provider($1::jsonb)',
              '{"name": "anon-user", "type": "anon-user", "disabled": true, "Disabled": true}');
select raised('select auth.import_provider($1::jsonb)',
              '{"_id": 1, "name": "anon-user", "type": "anon-user", "disabled": true}');
select auth.setting('disabled');
rollback;

-- R7: and so is everything else that is not such a file.
begin;
select config, raised('select auth.import_provider($1::jsonb)', config)
  from (values (1, '{}'), (2, '[]'), (3, 'null'), (4, '"anon-user"'), (5, '{"name": "anon-user", "type": "anon-user"}'),
               (6, '{"name": "api-key", "type": "anon-user", "disabled": true}'),
               (7, '{"name": "anon-user", "type": "oauth2-google", "disabled": true}'),
               (8, '{"name": null, "type": "anon-user", "disabled": true}'),
               (9, '{"name": "anon-user", "type": "anon-user", "disabled": "true"}'),
               (10, '{"name": "anon-user", "type": "anon-user", "disabled": 1}'),
               (11, '{"name": "anon-user", "type": "anon-user", "disabled": null}')) t(n, config)
 order by n;
select raised('select auth.import_provider($1::jsonb)', repeat('[', 1000) || repeat(']', 1000));
select auth.import_provider(null) is null as nothing_to_import;
select auth.setting('disabled');
rollback;

-- N10: a guest cannot switch it, service_role can.
begin;
set local role anon;
select raised('select auth.import_provider($1::jsonb)', '{"name": "anon-user", "type": "anon-user", "disabled": true}');
select raised('select auth.export_provider()');
set local role service_role;
select auth.import_provider('{"name": "anon-user", "type": "anon-user", "disabled": true}');
rollback;
