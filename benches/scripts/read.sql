\set id 100 * random(1, :owned)
begin;
select auth.authenticate(:access_token);
select body from documents where id = :id;
commit;
