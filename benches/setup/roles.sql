-- Who asks: `app` is the application; each of the others sees the same documents by a policy of its own.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit;
create role app login noinherit in role anon, authenticated;
create role app_unchecked login noinherit in role anon, authenticated;
alter role app_unchecked set anon_auth.check_session = off;
create role literal login;
create role customary login;
-- They stay what they logged in as, so that their policies differ on the same table.
create role either login;
alter role either set anon_auth.switch_role = off;
create role either_once login;
alter role either_once set anon_auth.switch_role = off;
alter role either_once set anon_auth.evaluate_once = on;
create role either_wrapped login;
alter role either_wrapped set anon_auth.switch_role = off;
